// What Swift's Glibc module leaves out: epoll and timerfd.
#pragma once
#include <sys/epoll.h>
#include <sys/timerfd.h>
