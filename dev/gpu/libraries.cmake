# Finds the libraries that the GPU's programs use where they exist: cuBLASLt, cuDNN with its C++ frontend and NVRTC, NCCL,
# CUPTI. CMakeLists.txt includes this file after find_package(CUDAToolkit), tests/programs/test_gpu_libraries.sh with
# stand-ins for toolkit and libraries. Nothing that is missing is an error.
#
# A library is a file with the name that the loader will ask for (libcublasLt.so.13 has the toolkit's major version), and
# its header; both come from one place. Places, in this order: each prefix in CMAKE_PREFIX_PATH, the toolkit, the system,
# the wheels of ${PYTHON} or python3 (site-packages/nvidia/cudnn/lib, nvidia/cu13/lib).
#
# Prints one line per library:
#   -- cuBLASLt: /usr/local/cuda/lib64/libcublasLt.so.13 (toolkit)          or CMAKE_PREFIX_PATH, system, Python wheel
#   -- left out: cuBLASLt (no libcublasLt.so.13; the hand-written products run instead)
#   -- cuBLASLt: off (WROUGHT_CUBLASLT=OFF; the hand-written products run instead)
# and, for each file that it looked at and did not take:
#   -- cuBLASLt: ignored /.../libcublasLt.so.12 (the name must be libcublasLt.so.13)
#
# Sets, for X in CUBLASLT CUDNN NVRTC NCCL CUPTI: X_LIBRARY (empty: left out) and X_INCLUDE_DIR (empty: nvcc looks there
# anyway); CUDNN_FRONTEND_INCLUDE_DIR. Targets that link one of them also link gpu_link, so that they run with the same
# file.

set(gpu_cuda ${CUDAToolkit_VERSION_MAJOR})

# ---- places ----------------------------------------------------------------------------------------------------------
string(REPLACE ":" ";" gpu_prefixes "$ENV{CMAKE_PREFIX_PATH}")
set(gpu_labels)
set(gpu_roots)
foreach(root ${CMAKE_PREFIX_PATH} ${gpu_prefixes})
  list(APPEND gpu_labels CMAKE_PREFIX_PATH)
  list(APPEND gpu_roots ${root})
endforeach()
foreach(folder ${CUDAToolkit_INCLUDE_DIRS} ${CUDAToolkit_LIBRARY_DIR} ${CUDAToolkit_MATH_INCLUDE_DIR})
  get_filename_component(root ${folder} DIRECTORY)
  list(APPEND gpu_labels toolkit)
  list(APPEND gpu_roots ${root})
endforeach()
foreach(root ${CMAKE_SYSTEM_PREFIX_PATH})
  list(APPEND gpu_labels system)
  list(APPEND gpu_roots ${root})
endforeach()

if(NOT "$ENV{PYTHON}" STREQUAL "")  # kept for when make configures again
  set(WROUGHT_PYTHON "$ENV{PYTHON}" CACHE INTERNAL "the Python whose wheels may have GPU libraries")
elseif(NOT WROUGHT_PYTHON)
  set(WROUGHT_PYTHON python3)
endif()
execute_process(COMMAND ${WROUGHT_PYTHON} -c "import sys; print('\\n'.join(p for p in sys.path if p))" TIMEOUT 30
                RESULT_VARIABLE gpu_failed OUTPUT_VARIABLE gpu_sites ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
if(gpu_failed STREQUAL 0)
  string(REPLACE "\n" ";" gpu_sites "${gpu_sites}")
else()
  set(gpu_sites)
endif()

# ---- one library -----------------------------------------------------------------------------------------------------
# Why `library`, found under `root`, cannot be taken (empty: it can), and the folder of its header.
function(check_gpu_library library root wanted header version wheel)
  get_filename_component(name "${library}" NAME)
  set(include)
  foreach(folder include include/${CMAKE_LIBRARY_ARCHITECTURE} extras/CUPTI/include)
    if(NOT include AND EXISTS "${root}/${folder}/${header}")
      set(include "${root}/${folder}")
    endif()
  endforeach()
  set(magic)
  if(EXISTS "${library}" AND NOT IS_DIRECTORY "${library}")
    file(READ "${library}" magic LIMIT 4 HEX)
  endif()
  # version: "FILE:MACRO", if a header defines its major version; it must be that of the library's name
  string(REGEX REPLACE ":.*" "" version_file "${version}")
  string(REGEX REPLACE ".*:" "" macro "${version}")
  string(REGEX REPLACE ".*\\.so\\." "" major ${wanted})
  set(header_major)
  if(version AND EXISTS "${include}/${version_file}")
    file(STRINGS "${include}/${version_file}" header_major REGEX "^#define +${macro} +[0-9]+")
    string(REGEX REPLACE "^#define +${macro} +([0-9]+).*" "\\1" header_major "${header_major}")
  endif()
  # Wheels of cuDNN and NCCL have the same file names for each CUDA; their records distinguish them.
  file(GLOB records "${root}/../../nvidia_${wheel}_cu[0-9]*.dist-info")
  set(own_records ${records})
  list(FILTER own_records INCLUDE REGEX "_cu${gpu_cuda}-[^/]*$")

  set(problem)
  if(NOT name STREQUAL wanted)
    set(problem "the name must be ${wanted}")
  elseif(NOT magic STREQUAL 7f454c46)
    set(problem "not a shared library")
  elseif(NOT include)
    set(problem "no ${header} in ${root}/include")
    set(missing "no ${header} for ${library}" PARENT_SCOPE)
  elseif(version AND NOT header_major STREQUAL major)
    set(problem "${macro} in ${include}/${version_file} is '${header_major}', expected ${major}")
  elseif(records AND NOT own_records)
    set(problem "its wheel is for another CUDA than ${gpu_cuda}")
  endif()
  set(problem "${problem}" PARENT_SCOPE)
  set(include "${include}" PARENT_SCOPE)
endfunction()

# find_gpu_library(X title file header version wheel headers...): sets X_LIBRARY, X_FROM and X_INCLUDE_DIR, or
# X_MISSING, what was not found. `headers`: patterns of all headers of the library.
function(find_gpu_library X title file header version wheel)
  string(REGEX REPLACE "\\.so\\..*" ".so" stem ${file})
  set(labels ${gpu_labels})
  set(roots ${gpu_roots})
  foreach(site ${gpu_sites})
    foreach(folder ${wheel} cu${gpu_cuda})
      list(APPEND labels "Python wheel")
      list(APPEND roots "${site}/nvidia/${folder}")
    endforeach()
  endforeach()
  set(missing "no ${file}")
  set(library)
  set(seen)
  foreach(label root IN ZIP_LISTS labels roots)
    foreach(folder lib/${CMAKE_LIBRARY_ARCHITECTURE} lib64 lib extras/CUPTI/lib64)
      get_filename_component(folder "${root}/${folder}" ABSOLUTE)
      get_filename_component(real "${folder}" REALPATH)
      if(library OR NOT IS_DIRECTORY "${folder}" OR real IN_LIST seen)
        continue()
      endif()
      list(APPEND seen "${real}")
      set(candidates "${folder}/${file}")
      if(NOT EXISTS "${folder}/${file}" AND NOT IS_SYMLINK "${folder}/${file}")
        file(GLOB candidates "${folder}/${stem}.[0-9]*")  # other versions: worth a line
      endif()
      foreach(candidate IN LISTS candidates)
        check_gpu_library("${candidate}" "${root}" ${file} ${header} "${version}" ${wheel})
        if(problem)
          message(STATUS "${title}: ignored ${candidate} (${problem})")
        else()
          set(library "${candidate}")
          set(headers_from "${include}")
          set(from "${label}")
        endif()
      endforeach()
    endforeach()
  endforeach()

  set(${X}_LIBRARY "${library}" PARENT_SCOPE)
  if(NOT library)
    set(${X}_MISSING "${missing}" PARENT_SCOPE)
    return()
  endif()
  # nvcc searches the toolkit's folder before those given as SYSTEM, and a whole folder before it could bring in another
  # CUDA's headers: so this makes a folder with links to this library's headers only.
  set(include)
  if(NOT headers_from IN_LIST CUDAToolkit_INCLUDE_DIRS)
    set(include "${CMAKE_BINARY_DIR}/gpu_headers/${X}")
    file(REMOVE_RECURSE "${include}")
    file(MAKE_DIRECTORY "${include}")
    set(headers ${ARGN})
    list(TRANSFORM headers PREPEND "${headers_from}/")
    file(GLOB headers ${headers})
    foreach(one IN LISTS headers)
      get_filename_component(name "${one}" NAME)
      file(CREATE_LINK "${one}" "${include}/${name}" SYMBOLIC)
    endforeach()
  endif()
  set(${X}_FROM "${from}" PARENT_SCOPE)
  set(${X}_INCLUDE_DIR "${include}" PARENT_SCOPE)
  set(${X}_MISSING "" PARENT_SCOPE)
endfunction()

# The library's line. X_MISSING may have become longer since.
function(report_gpu_library X title instead)
  if(${X}_MISSING)
    list(JOIN ${X}_MISSING ", " missing)
    message(STATUS "left out: ${title} (${missing}; ${instead})")
  else()
    message(STATUS "${title}: ${${X}_LIBRARY} (${${X}_FROM})")
  endif()
endfunction()

# ---- all of them -----------------------------------------------------------------------------------------------------
# Set to "", not unset: a build folder of an earlier version may have variables of these names in its cache.
set(CUBLASLT_LIBRARY "")
set(gpu_instead "the hand-written products run instead")
if(WROUGHT_CUBLASLT)
  find_gpu_library(CUBLASLT cuBLASLt libcublasLt.so.${gpu_cuda} cublasLt.h cublas_api.h:CUBLAS_VER_MAJOR cublas "cublas*.h")
  report_gpu_library(CUBLASLT cuBLASLt "${gpu_instead}")
else()
  message(STATUS "cuBLASLt: off (WROUGHT_CUBLASLT=OFF; ${gpu_instead})")
endif()

set(CUDNN_LIBRARY "")
set(NVRTC_LIBRARY "")
set(gpu_instead "our attention runs instead")
if(WROUGHT_CUDNN)
  find_gpu_library(CUDNN cuDNN libcudnn.so.9 cudnn.h cudnn_version.h:CUDNN_MAJOR cudnn "cudnn.h" "cudnn_[!f]*.h")
  # The frontend includes nvrtc.h; it and cuDNN load NVRTC by name.
  find_gpu_library(NVRTC NVRTC libnvrtc.so.${gpu_cuda} nvrtc.h "" cuda_nvrtc nvrtc.h)
  set(CUDNN_FRONTEND_INCLUDE_DIR "")
  set(gpu_folders ${gpu_roots} ${gpu_sites})
  list(TRANSFORM gpu_folders APPEND /include)
  foreach(folder ${gpu_folders})
    if(NOT CUDNN_FRONTEND_INCLUDE_DIR AND EXISTS "${folder}/cudnn_frontend.h")
      get_filename_component(CUDNN_FRONTEND_INCLUDE_DIR "${folder}" ABSOLUTE)
    endif()
  endforeach()
  list(APPEND CUDNN_MISSING ${NVRTC_MISSING})
  if(NOT CUDNN_FRONTEND_INCLUDE_DIR)
    list(APPEND CUDNN_MISSING "no cudnn_frontend.h")
  endif()
  report_gpu_library(CUDNN cuDNN "${gpu_instead}")
  if(CUDNN_MISSING)
    set(CUDNN_LIBRARY "")
    set(NVRTC_LIBRARY "")
  else()
    message(STATUS "cuDNN frontend: ${CUDNN_FRONTEND_INCLUDE_DIR}/cudnn_frontend.h")
    report_gpu_library(NVRTC NVRTC "")
  endif()
else()
  message(STATUS "cuDNN: off (WROUGHT_CUDNN=OFF; ${gpu_instead})")
endif()

find_gpu_library(NCCL NCCL libnccl.so.2 nccl.h nccl.h:NCCL_MAJOR nccl "nccl*")
report_gpu_library(NCCL NCCL "training takes one GPU")

find_gpu_library(CUPTI CUPTI libcupti.so.${gpu_cuda} cupti.h "" cuda_cupti "cupti*.h" "generated_*_meta.h")
report_gpu_library(CUPTI CUPTI "no kernel_times: a step's time kernel by kernel")

# ---- at run time -----------------------------------------------------------------------------------------------------
# The RPATH of programs names the libraries' folders. As a DT_RPATH: cuDNN loads its parts and NVRTC by dlopen, and for
# that the loader searches a program's DT_RPATH but not its DT_RUNPATH. NVRTC stays linked although no symbol needs it.
set(CMAKE_BUILD_RPATH)
foreach(library ${CUBLASLT_LIBRARY} ${CUDNN_LIBRARY} ${NVRTC_LIBRARY} ${NCCL_LIBRARY} ${CUPTI_LIBRARY})
  get_filename_component(folder "${library}" DIRECTORY)
  if(NOT folder IN_LIST CMAKE_CXX_IMPLICIT_LINK_DIRECTORIES)
    list(APPEND CMAKE_BUILD_RPATH "${folder}")
  endif()
endforeach()
list(REMOVE_DUPLICATES CMAKE_BUILD_RPATH)
add_library(gpu_link INTERFACE)
target_link_options(gpu_link INTERFACE LINKER:--disable-new-dtags,--no-as-needed)
