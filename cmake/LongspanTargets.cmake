# What every target of the project compiles with.
add_library(longspan_options INTERFACE)
target_include_directories(longspan_options INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_options(longspan_options INTERFACE
  "$<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wshadow;-Wnon-virtual-dtor;-Woverloaded-virtual;-Wno-missing-field-initializers>")
if(LONGSPAN_CPU_ARCH)
  target_compile_options(longspan_options INTERFACE
                         $<$<COMPILE_LANGUAGE:CXX>:-march=${LONGSPAN_CPU_ARCH}>)
endif()
if(LONGSPAN_SANITIZE)
  target_compile_options(longspan_options INTERFACE -fsanitize=${LONGSPAN_SANITIZE}
                                                    -fno-omit-frame-pointer)
  target_link_options(longspan_options INTERFACE -fsanitize=${LONGSPAN_SANITIZE})
  if(LONGSPAN_SANITIZE MATCHES "thread" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # Boost.Asio has fences, which this sanitizer does not see, beside the locks that it does.
    target_compile_options(longspan_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-tsan>)
  endif()
endif()

# longspan_library(<name> SOURCES ... DEPENDS ...): the link lines are the arrows of docs/ARCHITECTURE.md.
function(longspan_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC longspan_options ${ARG_DEPENDS})
endfunction()
