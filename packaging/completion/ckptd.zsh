#compdef ckptd
# What --help shows.
_gnu_generic
