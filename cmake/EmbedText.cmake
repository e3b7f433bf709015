# cmake -DINPUT=file -DOUTPUT=file.cpp -DHEADER=header.h -DNAME=kName -P EmbedText.cmake
#
# Writes a source file that defines ckptd::ctl::NAME, which HEADER declares, as the text of INPUT.
file(READ "${INPUT}" text)
string(FIND "${text}" ")ckptd_text\"" end)
if(NOT end EQUAL -1)
  message(FATAL_ERROR "${INPUT} holds the end of the raw string that it is put into")
endif()
file(WRITE "${OUTPUT}" "// Made from ${INPUT}; edit that.\n#include \"${HEADER}\"\n\nnamespace ckptd::ctl {\n"
     "const std::string_view ${NAME} = R\"ckptd_text(${text})ckptd_text\";\n}  // namespace ckptd::ctl\n")
