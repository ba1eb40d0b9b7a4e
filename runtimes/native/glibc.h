/* Included before everything else: keeps libtofe loadable where glibc is older than the compiler's (2.27: JetPack 5, Debian 10).
 *
 * `exp` got a new version in glibc 2.29, which only sets errno in fewer cases; the old one is everywhere.
 * `__libc_single_threaded` (2.32) is what libstdc++'s shared_ptr asks whether atomics can be spared: here they never are. */
#ifndef TOFE_GLIBC_H
#define TOFE_GLIBC_H

#if defined(__linux__) && !defined(__ANDROID__) && (defined(__x86_64__) || defined(__aarch64__))
#ifdef __x86_64__
__asm__(".symver exp, exp@GLIBC_2.2.5");
#else
__asm__(".symver exp, exp@GLIBC_2.17");
#endif
extern "C" __attribute__((weak, visibility("hidden"))) char __libc_single_threaded;
char __libc_single_threaded = 0;
#endif

#endif
