# Cross-compiles for 64-bit ARM Android with the NDK's own toolchain file:
#   cmake -S . -B build -DCMAKE_TOOLCHAIN_FILE=android-ndk.cmake -DANDROID_NDK=/path/of/the/ndk -Dexecutorch_DIR=…
# executorch_DIR must be of an ExecuTorch that was built with the same NDK: wheels hold libraries for glibc alone. See
# docs/native.md.
if(NOT ANDROID_NDK)
  set(ANDROID_NDK "$ENV{ANDROID_NDK}")
endif()
if(NOT EXISTS "${ANDROID_NDK}/build/cmake/android.toolchain.cmake")
  message(FATAL_ERROR "no Android NDK in '${ANDROID_NDK}'; unpack one and give its folder as -DANDROID_NDK=FOLDER")
endif()
# CMake reads this file anew for every program that it tries to compile.
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES ANDROID_NDK)

set(ANDROID_ABI arm64-v8a)
# The oldest that the bundles of `tofe-edge package` take.
set(ANDROID_PLATFORM android-23)
# The C++ library goes into the program: a device has none for it. ExecuTorch's own build makes static libraries too.
set(ANDROID_STL c++_static)
include("${ANDROID_NDK}/build/cmake/android.toolchain.cmake")
