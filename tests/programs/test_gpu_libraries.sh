# dev/gpu/libraries.cmake: the libraries of the GPU's programs, their places, and the report about the others.
# A project without CUDA includes it, with stand-ins for toolkit and libraries; with nvcc the real project is
# configured, too.
source "$(dirname "$0")/lib.sh"
cd "$TMP"
unset CMAKE_PREFIX_PATH PYTHONPATH
export PYTHON="$TMP/no-python"

mkdir project
cat >project/CMakeLists.txt <<'END'
cmake_minimum_required(VERSION 3.22)
project(standin LANGUAGES ${languages})
option(WROUGHT_CUBLASLT "" ON)
option(WROUGHT_CUDNN "" ON)
set(CMAKE_LIBRARY_ARCHITECTURE x86_64-linux-gnu)
set(CMAKE_SYSTEM_PREFIX_PATH ${system})
include(${SOURCE}/dev/gpu/libraries.cmake)
foreach(x CUBLASLT CUDNN NVRTC NCCL CUPTI)
  message(STATUS "${x}_LIBRARY=${${x}_LIBRARY}")
endforeach()
message(STATUS "RPATH=${CMAKE_BUILD_RPATH}")
if(languages STREQUAL CXX)
  add_executable(program program.cpp)
  target_include_directories(program BEFORE PRIVATE ${CUDNN_INCLUDE_DIR})
  target_link_libraries(program PRIVATE gpu_link ${CUDNN_LIBRARY})
endif()
END

# library FOLDER ROOT: a stand-in for every library in ROOT/FOLDER, and headers in ROOT/include. Only versioned names.
libraries() {
  local name
  mkdir -p "$2/$1" "$2/include"
  for name in libcublasLt.so.13 libcudnn.so.9 libnvrtc.so.13 libnccl.so.2 libcupti.so.13; do printf '\177ELF' >"$2/$1/$name"; done
  touch "$2"/include/{cublasLt,cudnn,cudnn_ops,nvrtc,cupti,generated_cuda_meta,cuda_runtime,cudnn_frontend}.h
  echo '#define CUBLAS_VER_MAJOR 13' >"$2/include/cublas_api.h"
  echo '#define CUDNN_MAJOR 9' >"$2/include/cudnn_version.h"
  echo '#define NCCL_MAJOR 2' >"$2/include/nccl.h"
}
# configure ARGUMENTS...: must succeed. The toolkit is kit/, empty unless a test fills it; the output is written to out.
configure() {
  mkdir -p kit/include kit/lib64
  rm -rf build
  expect_ok cmake -S project -B build -DSOURCE="$SOURCE" -Dlanguages=NONE -DCUDAToolkit_VERSION_MAJOR=13 \
    -DCUDAToolkit_INCLUDE_DIRS="$TMP/kit/include" -DCUDAToolkit_LIBRARY_DIR="$TMP/kit/lib64" "$@"
}
expect_line() { grep -qxF -- "-- $1" out || { cat out; die "no line '-- $1'"; }; }
expect_none() { ! grep -E -- "$1" out || die "unexpected (above): $1"; }
no_cublas="left out: cuBLASLt (no libcublasLt.so.13; the hand-written products run instead)"
no_nccl="left out: NCCL (no libnccl.so.2; training takes one GPU)"
no_cupti="left out: CUPTI (no libcupti.so.13; no kernel_times: a step's time kernel by kernel)"

# ---- all present, none, each one hidden in turn ---------------------------------------------------------------------
libraries lib64 kit
configure
for line in "cuBLASLt: $TMP/kit/lib64/libcublasLt.so.13 (toolkit)" "cuDNN: $TMP/kit/lib64/libcudnn.so.9 (toolkit)" \
  "cuDNN frontend: $TMP/kit/include/cudnn_frontend.h" "NVRTC: $TMP/kit/lib64/libnvrtc.so.13 (toolkit)" \
  "NCCL: $TMP/kit/lib64/libnccl.so.2 (toolkit)" "CUPTI: $TMP/kit/lib64/libcupti.so.13 (toolkit)" "RPATH=$TMP/kit/lib64"; do
  expect_line "$line"
done
expect_none "left out|ignored"
[ ! -e build/gpu_headers ] || die "there are links to headers of the toolkit"

rm -rf kit
cached=() # as an earlier version left them in a build folder
for name in CUBLASLT_LIBRARY CUDNN_LIBRARY NVRTC_LIBRARY NCCL_LIBRARY CUPTI_LIBRARY CUDNN_FRONTEND_INCLUDE_DIR; do
  cached+=("-D$name=$TMP/old")
done
configure "${cached[@]}"
for line in "$no_cublas" "left out: cuDNN (no libcudnn.so.9, no libnvrtc.so.13, no cudnn_frontend.h; our attention runs instead)" \
  "$no_nccl" "$no_cupti" CUBLASLT_LIBRARY= CUDNN_LIBRARY= NVRTC_LIBRARY= NCCL_LIBRARY= CUPTI_LIBRARY= RPATH=; do
  expect_line "$line"
done

hidden() { # hidden FILE LINE: only this is left out
  rm -rf kit
  libraries lib64 kit
  rm "kit/$1"
  configure
  expect_line "left out: $2"
  [ "$(grep -c "left out" out)" = 1 ] || { cat out; die "more is left out than is missing"; }
}
hidden lib64/libcublasLt.so.13 "${no_cublas#left out: }"
hidden lib64/libcudnn.so.9 "cuDNN (no libcudnn.so.9; our attention runs instead)"
expect_line NVRTC_LIBRARY=
hidden lib64/libnvrtc.so.13 "cuDNN (no libnvrtc.so.13; our attention runs instead)"
hidden include/cudnn_frontend.h "cuDNN (no cudnn_frontend.h; our attention runs instead)"
hidden include/cudnn.h "cuDNN (no cudnn.h for $TMP/kit/lib64/libcudnn.so.9; our attention runs instead)"
hidden include/cublasLt.h "cuBLASLt (no cublasLt.h for $TMP/kit/lib64/libcublasLt.so.13; the hand-written products run instead)"
hidden lib64/libnccl.so.2 "${no_nccl#left out: }"
hidden include/nccl.h "NCCL (no nccl.h for $TMP/kit/lib64/libnccl.so.2; training takes one GPU)"
hidden lib64/libcupti.so.13 "${no_cupti#left out: }"

# ---- a user's switches ---------------------------------------------------------------------------------------------------
rm -rf kit
libraries lib64 kit
configure -DWROUGHT_CUBLASLT=OFF -DWROUGHT_CUDNN=OFF "${cached[@]}"
expect_line "cuBLASLt: off (WROUGHT_CUBLASLT=OFF; the hand-written products run instead)"
expect_line "cuDNN: off (WROUGHT_CUDNN=OFF; our attention runs instead)"
expect_line CUBLASLT_LIBRARY=
expect_line CUDNN_LIBRARY=
expect_none "left out|NVRTC:"

# ---- names, versions, headers that do not fit ---------------------------------------------------------------------------
spoil() { # spoil FILE COMMAND LINE...: after COMMAND cuBLASLt is not linked, with these lines
  rm -rf kit
  libraries lib64 kit
  (cd kit && eval "$1")
  configure
  expect_line CUBLASLT_LIBRARY=
  expect_line "cuBLASLt: ignored $2"
  expect_output "^-- left out: cuBLASLt \(no .*; the hand-written products run instead\)$"
  expect_line "NCCL: $TMP/kit/lib64/libnccl.so.2 (toolkit)"
}
L=$TMP/kit/lib64/libcublasLt.so
spoil "mv lib64/libcublasLt.so.1{3,2}" "$L.12 (the name must be libcublasLt.so.13)"
spoil "mv lib64/libcublasLt.so.13{,.0.0.19}" "$L.13.0.0.19 (the name must be libcublasLt.so.13)"
spoil "mv lib64/libcublasLt.so.13{,.bak}" "$L.13.bak (the name must be libcublasLt.so.13)"
spoil "ln -sf nowhere lib64/libcublasLt.so.13" "$L.13 (not a shared library)"
spoil "rm lib64/libcublasLt.so.13; mkdir lib64/libcublasLt.so.13" "$L.13 (not a shared library)"
spoil "echo 'version https://git-lfs' >lib64/libcublasLt.so.13" "$L.13 (not a shared library)"
spoil "echo '#define CUBLAS_VER_MAJOR 12' >include/cublas_api.h" \
  "$L.13 (CUBLAS_VER_MAJOR in $TMP/kit/include/cublas_api.h is '12', expected 13)"
rm -rf kit
libraries lib64 kit
mv kit/lib64/libcudnn.so.{9,8}
mv kit/lib64/libcublasLt.so.13 kit/lib64/libcublasLt.so # the loader would not find it
configure
expect_line "cuDNN: ignored $TMP/kit/lib64/libcudnn.so.8 (the name must be libcudnn.so.9)"
expect_line "left out: cuDNN (no libcudnn.so.9; our attention runs instead)"
expect_line "$no_cublas"
# An older CUDA's toolkit: only its own major version.
for name in cublasLt nvrtc cupti; do printf '\177ELF' >kit/lib64/lib$name.so.12; done
echo '#define CUBLAS_VER_MAJOR 12' >kit/include/cublas_api.h
configure -DCUDAToolkit_VERSION_MAJOR=12
expect_line "cuBLASLt: $L.12 (toolkit)"
expect_line "CUPTI: $TMP/kit/lib64/libcupti.so.12 (toolkit)"

# ---- places: prefixes, then the toolkit, then the system; headers from the library's own place ----------------------
rm -rf kit
libraries lib64 kit
libraries lib prefix
libraries lib/x86_64-linux-gnu system
configure -DCMAKE_PREFIX_PATH="$TMP/nowhere;$TMP/prefix" -Dsystem="$TMP/system"
expect_line "cuBLASLt: $TMP/prefix/lib/libcublasLt.so.13 (CMAKE_PREFIX_PATH)"
expect_line "RPATH=$TMP/prefix/lib"
headers() { ls build/gpu_headers/"$1" | tr '\n' ' '; }
[ "$(headers CUBLASLT)" = "cublasLt.h cublas_api.h " ] || die "cuBLASLt's headers: $(headers CUBLASLT)"
[ "$(headers CUDNN)" = "cudnn.h cudnn_ops.h cudnn_version.h " ] || die "cuDNN's headers: $(headers CUDNN)"
[ "$(headers CUPTI)" = "cupti.h generated_cuda_meta.h " ] || die "CUPTI's headers: $(headers CUPTI)"
[ build/gpu_headers/CUBLASLT/cublasLt.h -ef prefix/include/cublasLt.h ] || die "the header does not belong to the library"
rm prefix/lib/libcublasLt.so.13 kit/lib64/lib{cublasLt.so.13,nccl.so.2} # the headers stay
rm prefix/lib/libnccl.so.2
CMAKE_PREFIX_PATH="$TMP/prefix" configure -Dsystem="$TMP/system"
expect_line "cuBLASLt: $TMP/system/lib/x86_64-linux-gnu/libcublasLt.so.13 (system)"
expect_line "NCCL: $TMP/system/lib/x86_64-linux-gnu/libnccl.so.2 (system)"
expect_line "CUPTI: $TMP/prefix/lib/libcupti.so.13 (CMAKE_PREFIX_PATH)"
[ build/gpu_headers/CUBLASLT/cublasLt.h -ef system/include/cublasLt.h ] || die "the header does not belong to the library"

# ---- Python's wheels -----------------------------------------------------------------------------------------------------
# A folder per library, another for those of CUDA 13, a site folder with a space in its name, the frontend in its
# include.
rm -rf kit
libraries lib all
site="$TMP/a site"
wheel() { # wheel FOLDER LIBRARY HEADERS...
  mkdir -p "$site/nvidia/$1"/{lib,include}
  cp all/lib/"$2" "$site/nvidia/$1/lib/"
  (cd all/include && cp "${@:3}" "$site/nvidia/$1/include/")
}
wheel cu13 libcublasLt.so.13 cublasLt.h cublas_api.h cuda_runtime.h
wheel cudnn libcudnn.so.9 cudnn.h cudnn_ops.h cudnn_version.h
wheel cuda_nvrtc libnvrtc.so.13 nvrtc.h
wheel nccl libnccl.so.2 nccl.h
wheel cuda_cupti libcupti.so.13 cupti.h
wheel cublas libcublasLt.so.13 cublasLt.h
mv "$site"/nvidia/cublas/lib/libcublasLt.so.1{3,2} # CUDA 12, installed as well
mkdir "$site/include"
touch "$site/include/cudnn_frontend.h"
cat >python <<END
#!/bin/sh
echo "\$1" >>"$TMP/asked"
printf '%s\n' "$TMP/nowhere" "$site"
END
chmod +x python
PYTHON="$TMP/python" configure
expect_line "cuBLASLt: ignored $site/nvidia/cublas/lib/libcublasLt.so.12 (the name must be libcublasLt.so.13)"
for line in "cuBLASLt: $site/nvidia/cu13/lib/libcublasLt.so.13 (Python wheel)" "NCCL: $site/nvidia/nccl/lib/libnccl.so.2 (Python wheel)" \
  "cuDNN: $site/nvidia/cudnn/lib/libcudnn.so.9 (Python wheel)" "cuDNN frontend: $site/include/cudnn_frontend.h" \
  "NVRTC: $site/nvidia/cuda_nvrtc/lib/libnvrtc.so.13 (Python wheel)" \
  "CUPTI: $site/nvidia/cuda_cupti/lib/libcupti.so.13 (Python wheel)" \
  "RPATH=$site/nvidia/cu13/lib;$site/nvidia/cudnn/lib;$site/nvidia/cuda_nvrtc/lib;$site/nvidia/nccl/lib;$site/nvidia/cuda_cupti/lib"; do
  expect_line "$line"
done
expect_none "left out"
[ "$(headers CUBLASLT)" = "cublasLt.h cublas_api.h " ] || die "more than the headers of cuBLASLt: $(headers CUBLASLT)"
[ "$(cat asked)" = -c ] || die "Python was asked $(wc -l <asked) times"
# Configured again, as make does: with the same Python, though the environment no longer names it.
unset PYTHON
expect_ok cmake -S project -B build
expect_line "NCCL: $site/nvidia/nccl/lib/libnccl.so.2 (Python wheel)"
export PYTHON="$TMP/no-python"
# cuDNN and NCCL have one name for all versions of CUDA: the records of their wheels tell.
mkdir "$site"/nvidia_cudnn_cu12-9.1.0.dist-info "$site"/nvidia_nccl_cu1{2,3}-2.30.dist-info
PYTHON="$TMP/python" configure
expect_line "cuDNN: ignored $site/nvidia/cudnn/lib/libcudnn.so.9 (its wheel is for another CUDA than 13)"
expect_line "left out: cuDNN (no libcudnn.so.9; our attention runs instead)"
expect_line "NCCL: $site/nvidia/nccl/lib/libnccl.so.2 (Python wheel)"
if command -v python3 >/dev/null; then
  (unset PYTHON && PYTHONPATH=$site configure)
  expect_line "NCCL: $site/nvidia/nccl/lib/libnccl.so.2 (Python wheel)"
else
  echo "skipped: python3's own site folders (no python3 here)"
fi

# ---- a program runs with the library that it was linked with --------------------------------------------------------
# Like a cuDNN without its own RPATH: it loads its other part by name.
mkdir -p cudnn/lib cudnn/include
cp all/include/{cudnn,cudnn_version,cudnn_frontend,nvrtc}.h cudnn/include/
echo 'extern "C" int cudnn();' >cudnn/include/cudnn.h
echo 'extern "C" int part() { return 42; }' >part.cpp
cat >whole.cpp <<'END'
#include <dlfcn.h>
extern "C" int cudnn() {
  void* library = dlopen("libcudnn_part.so.9", RTLD_NOW);
  return library ? reinterpret_cast<int (*)()>(dlsym(library, "part"))() : 0;
}
END
printf '#include <cudnn.h>\nint main() { return cudnn() == 42 ? 0 : 1; }\n' >project/program.cpp
cxx=${CXX:-c++}
$cxx -shared -fPIC -o cudnn/lib/libcudnn_part.so.9 part.cpp
$cxx -shared -fPIC -Wl,-soname,libcudnn.so.9 -o cudnn/lib/libcudnn.so.9 whole.cpp -ldl
$cxx -shared -fPIC -Wl,-soname,libnvrtc.so.13 -o cudnn/lib/libnvrtc.so.13 part.cpp
configure -Dlanguages=CXX -DCMAKE_PREFIX_PATH="$TMP/cudnn"
expect_line "cuDNN: $TMP/cudnn/lib/libcudnn.so.9 (CMAKE_PREFIX_PATH)"
expect_ok cmake --build build
LD_LIBRARY_PATH='' expect_ok build/program

# ---- the real project, if there is nvcc -----------------------------------------------------------------------------
nvcc=$(command -v nvcc || echo "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc")
if [ ! -x "$nvcc" ]; then
  echo "skipped: configuring the whole project for a GPU (no nvcc here)"
  exit 0
fi
major=$("$nvcc" --version | sed -n 's/.* release \([0-9]*\)\..*/\1/p')
rm -rf prefix
libraries lib prefix
rm prefix/lib/*
for name in libcublasLt.so."$major" libcudnn.so.9 libnvrtc.so."$major" libnccl.so.2 libcupti.so."$major"; do
  $cxx -shared -fPIC -Wl,-soname,$name -o prefix/lib/$name part.cpp  # CMake reads the names in the files
done
echo "#define CUBLAS_VER_MAJOR $major" >prefix/include/cublas_api.h
expect_ok cmake -S "$SOURCE" -B whole -G "Unix Makefiles" -DCUDA_ARCH=90a -DWROUGHT_TESTS=OFF -DCMAKE_PREFIX_PATH="$TMP/prefix"
if grep "left out: CUDA programs" out; then die "the CUDA programs are left out although there is nvcc"; fi
for line in "cuBLASLt: $TMP/prefix/lib/libcublasLt.so.$major" "cuDNN: $TMP/prefix/lib/libcudnn.so.9" "NCCL: $TMP/prefix/lib/libnccl.so.2" \
  "CUPTI: $TMP/prefix/lib/libcupti.so.$major"; do
  expect_line "$line (CMAKE_PREFIX_PATH)"
done
link=whole/CMakeFiles/train_gpt2cu.dir/link.txt flags=whole/CMakeFiles/wrought_gpu_cuda.dir  # include folders may be in a separate file
for expected in "prefix/lib/libcublasLt.so.$major" prefix/lib/libcudnn.so.9 "prefix/lib/libnvrtc.so.$major" prefix/lib/libnccl.so.2 \
  "-Wl,-rpath,$TMP/prefix/lib" -Wl,--disable-new-dtags; do
  grep -qF -- "$expected" $link || { cat $link; die "train_gpt2cu is linked without $expected"; }
done
for expected in -DWROUGHT_CUBLASLT=1 -DWROUGHT_CUDNN=1 -DWROUGHT_NCCL=1 "-I$TMP/whole/gpu_headers/CUBLASLT" "-I$TMP/whole/gpu_headers/CUDNN" \
  "-I$TMP/whole/gpu_headers/NCCL"; do
  grep -rqF -- "$expected" $flags || { cat $flags/flags.make; die "wrought_gpu_cuda is compiled without $expected"; }
done
grep -qF "prefix/lib/libcupti.so.$major" whole/CMakeFiles/kernel_times.dir/link.txt || die "kernel_times is linked without CUPTI"
rm -r prefix
expect_ok cmake whole -DWROUGHT_CUBLASLT=OFF -DWROUGHT_CUDNN=OFF
expect_line "cuBLASLt: off (WROUGHT_CUBLASLT=OFF; the hand-written products run instead)"
expect_line "cuDNN: off (WROUGHT_CUDNN=OFF; our attention runs instead)"
for option in WROUGHT_CUBLASLT WROUGHT_CUDNN; do ! grep -rF -- -D$option $flags || die "$option is off, but defined"; done
! grep -E 'libcublasLt|libcudnn|libnvrtc' $link || die "disabled libraries are linked (above)"
for library in NCCL CUPTI; do expect_output "^-- ($library: /|left out: $library \()"; done
