// The signals that ask a program to stop; the training loop polls for them between steps:
//
//   SIGINT, SIGTERM   a person, mpirun, a scheduler. A second one of the same kind, more than half a second later, ends
//                     the program at once; sooner it is the same one (`timeout` and shells send it to a process and
//                     then to its group)
//   SIGHUP            the terminal or the connection has gone
//   SIGUSR1           a scheduler's warning (Slurm's --signal=USR1@300)
//   SIGXCPU           the limit of processor time (ulimit -t); sent each second from then on
//
// Several in a row (SIGTERM and then SIGHUP, SIGXCPU again and again) ask once: the save continues. Signals that are
// ignored when the program starts stay ignored (nohup).
//
// The signals are blocked in every thread and received by a separate thread with sigwait(), not by a handler: a handler
// would run on the interrupted thread's stack, and libraries of tuned code may use the stack pointer for other purposes
// meanwhile (seen in a sgemm), so that the signal's frame overwrites what it points to.
#pragma once

#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <map>
#include <thread>

class StopSignal {
 public:
  // Called before any other thread is started: threads inherit what is blocked. Until defer() a signal ends the program
  // at once.
  static void watch() {
    sigset_t set = signals();
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
    std::thread([set] {
      std::map<int, std::chrono::steady_clock::time_point> first;
      for (int signal = 0; sigwait(&set, &signal) == 0;) {
        const auto now = std::chrono::steady_clock::now();
        const auto [at, is_first] = first.try_emplace(signal, now);
        const bool insists = (signal == SIGINT || signal == SIGTERM) && !is_first && now - at->second > kSameSignal;
        if (!deferred_ || insists) ::_exit(128 + signal);  // nothing to finish, or asked for a second time
        if (received_ == 0) received_ = signal;
      }
    }).detach();
  }
  static void defer() { deferred_ = true; }           // from now on the loop finishes its step and saves
  static int received() { return received_.load(); }  // the first signal, or 0

 private:
  static constexpr std::chrono::milliseconds kSameSignal{500};
  static sigset_t signals() {
    sigset_t set;
    sigemptyset(&set);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGXCPU}) {
      struct sigaction before;
      const bool ignored = ::sigaction(signal, nullptr, &before) == 0 && before.sa_handler == SIG_IGN;
      if (!ignored) sigaddset(&set, signal);
    }
    return set;
  }
  static inline std::atomic<bool> deferred_{false};
  static inline std::atomic<int> received_{0};
};
