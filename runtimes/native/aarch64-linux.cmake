# Cross-compiles for 64-bit ARM Linux (Jetson, Raspberry Pi) with the distribution's g++-aarch64-linux-gnu:
#   cmake -S . -B build -DCMAKE_TOOLCHAIN_FILE=aarch64-linux.cmake -Dexecutorch_DIR=…
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)

# Programs run here; libraries and headers are the target's. The ExecuTorch package is named by its full path.
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
