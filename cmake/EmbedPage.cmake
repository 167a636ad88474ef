# cmake -DDIRECTORY=runtime/server/page -DOUTPUT=page.cc -P EmbedPage.cmake: the files of the page
# as C++ arrays, whose length no compiler limits as it does that of string literals.
function(embed name file content_type)
  file(READ ${DIRECTORY}/${file} bytes HEX)
  string(REGEX REPLACE "(..)" "'\\\\x\\1'," bytes "${bytes}")
  file(APPEND ${OUTPUT} "constexpr char k${name}Bytes[] = {${bytes}};
const PageFile kPage${name} = {\"${content_type}\", {k${name}Bytes, sizeof(k${name}Bytes)}};
")
endfunction()

file(WRITE ${OUTPUT} "// Made by cmake/EmbedPage.cmake.
#include \"runtime/server/page.h\"

namespace longspan {

")
embed(Html index.html "text/html; charset=utf-8")
embed(Css page.css "text/css; charset=utf-8")
embed(Js page.js "text/javascript; charset=utf-8")
file(APPEND ${OUTPUT} "
}  // namespace longspan
")
