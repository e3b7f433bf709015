# CUDA's driver API, of which the build needs one header: libcuda.so.1 is opened at run time (docs/decisions/0017), so
# that one package runs on machines with and without GPUs. No compiler and no library of CUDA is looked for.
#
#   CKPTD_WITH_CUDA=AUTO       built in where cuda.h of CUDA 12 or later is found
#   CKPTD_WITH_CUDA=ON, OFF    an error where it is not found; not looked for
#   CKPTD_CUDA_INCLUDE_DIR     where cuda.h is, if it is in none of the usual places
#
# Gives CKPTD_CUDA (whether it is built in) and the target cuda_headers.
set(CKPTD_WITH_CUDA AUTO CACHE STRING "Build the CUDA backend: AUTO, ON or OFF")
set_property(CACHE CKPTD_WITH_CUDA PROPERTY STRINGS AUTO ON OFF)

# A toolkit, or the headers that Python packages bring: nvidia-cuda-runtime (CUDA 13) and nvidia-cuda-runtime-cu12.
function(ckptd_find_cuda_header)
  set(site_packages "")
  find_program(CKPTD_PYTHON NAMES python3)
  mark_as_advanced(CKPTD_PYTHON)
  if(CKPTD_PYTHON)
    execute_process(
      COMMAND ${CKPTD_PYTHON} -c "import site, sysconfig; print(';'.join([sysconfig.get_path('purelib'), site.getusersitepackages(), *site.getsitepackages()]))"
      OUTPUT_VARIABLE site_packages OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
  file(GLOB of_environments "$ENV{VIRTUAL_ENV}/lib/python3*/site-packages"
       "${PROJECT_SOURCE_DIR}/.venv/lib/python3*/site-packages")
  set(wheels "")
  foreach(folder IN LISTS of_environments site_packages)
    list(APPEND wheels ${folder}/nvidia/cu13/include ${folder}/nvidia/cuda_runtime/include)
  endforeach()
  find_path(CKPTD_CUDA_INCLUDE_DIR cuda.h
            HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda /usr/local/cuda/targets/x86_64-linux ${wheels}
            PATH_SUFFIXES include
            DOC "Folder of cuda.h")
endfunction()

set(CKPTD_CUDA OFF)
if(CKPTD_WITH_CUDA STREQUAL "AUTO" OR CKPTD_WITH_CUDA)
  ckptd_find_cuda_header()
  set(cuda_version 0)
  if(CKPTD_CUDA_INCLUDE_DIR AND EXISTS "${CKPTD_CUDA_INCLUDE_DIR}/cuda.h")
    file(STRINGS "${CKPTD_CUDA_INCLUDE_DIR}/cuda.h" version_line REGEX "^#define CUDA_VERSION [0-9]+" LIMIT_COUNT 1)
    string(REGEX MATCH "[0-9]+" cuda_version "${version_line}")
  endif()
  if(cuda_version GREATER_EQUAL 12000)
    set(CKPTD_CUDA ON)
    add_library(cuda_headers INTERFACE IMPORTED)
    target_include_directories(cuda_headers SYSTEM INTERFACE ${CKPTD_CUDA_INCLUDE_DIR})
    message(STATUS "device backends: host cuda (cuda.h ${cuda_version} in ${CKPTD_CUDA_INCLUDE_DIR})")
    message(STATUS "collective backends: local nccl (libnccl.so.2 is opened at run time)")
  elseif(NOT CKPTD_WITH_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR
            "CKPTD_WITH_CUDA=${CKPTD_WITH_CUDA}, but cuda.h of CUDA 12 or later was not found. Install a toolkit, or the "
            "headers alone with `pip install nvidia-cuda-runtime`, or name their folder with -DCKPTD_CUDA_INCLUDE_DIR=; "
            "-DCKPTD_WITH_CUDA=OFF builds without.")
  endif()
endif()
if(NOT CKPTD_CUDA)
  message(STATUS "device backends: host (no CUDA: CKPTD_WITH_CUDA=${CKPTD_WITH_CUDA}, cuda.h ${CKPTD_CUDA_INCLUDE_DIR})")
  message(STATUS "collective backends: local (NCCL spreads between CUDA devices)")
endif()
