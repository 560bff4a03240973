// SIGINT and SIGTERM as a question that the training loop asks between steps.
//
// The signals are blocked in every thread and taken by one thread of their own with sigwait(), not by a handler: a
// handler would run on whatever stack the interrupted thread has, and libraries of tuned code may use the stack pointer
// for other ends meanwhile (seen in a sgemm), so that the signal's frame overwrites what it points to.
#pragma once

#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <thread>

class StopSignal {
 public:
  // Before any other thread is started: threads inherit what is blocked. Until defer() a signal ends the program at
  // once.
  static void watch() {
    sigset_t set = signals();
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
    std::thread([set] {
      for (int signal = 0; sigwait(&set, &signal) == 0;) {
        if (!deferred_ || received_ != 0) ::_exit(128 + signal);  // nothing to finish, or asked for a second time
        received_ = signal;
      }
    }).detach();
  }
  static void defer() { deferred_ = true; }           // from now on the loop finishes its step and saves
  static int received() { return received_.load(); }  // the signal, or 0

 private:
  static sigset_t signals() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    return set;
  }
  static inline std::atomic<bool> deferred_{false};
  static inline std::atomic<int> received_{0};
};
