# fish completion for ckptd: the flags that its --help shows, and files.
function __ckptd_flags
    ckptd --help 2>/dev/null | string match -ra -- '--[a-z][a-z-]*' | sort -u
end
complete -c ckptd -n 'string match -q -- "-*" (commandline -ct)' -a '(__ckptd_flags)'
