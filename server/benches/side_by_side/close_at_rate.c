/* close_at_rate: a connection for each request, at a rate that does not wait for answers; what
 * h2load --rps does not do. Each latency runs from when its connection was due.
 * usage: close_at_rate PORT CONNECTIONS_PER_SECOND SECONDS
 * Prints the median and the 99th percentile in microseconds, connections answered, others.
 * gcc -O2 -o close_at_rate close_at_rate.c -lm */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAXFD = 65536, LAST_US = 3000000 /* how long the last answers are waited for */ };
static struct { double due; int is_sent, is_good; } conns[MAXFD];

static double now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}
static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}
int main(int argc, char **argv) {
  if (argc != 4) return fprintf(stderr, "usage: close_at_rate PORT CONNECTIONS_PER_SECOND SECONDS\n"), 2;
  double rate = atof(argv[2]), seconds = atof(argv[3]);
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  const char *request = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
  long wanted = (long)(rate * seconds), begun = 0, answered = 0, failed = 0, open = 0;
  if (wanted < 1) return fprintf(stderr, "close_at_rate: nothing to do\n"), 2;
  double *latencies = calloc((size_t)wanted, sizeof *latencies);
  int ep = epoll_create1(0);
  struct epoll_event event, events[256];
  static char buf[4096];
  srand48(7); /* the same times for every proxy */
  double due = now_us(), end = due + seconds * 1e6 + LAST_US;
  while ((begun < wanted || open) && now_us() < end) {
    for (; begun < wanted && due <= now_us(); begun++) {
      int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
      if (fd < 0 || fd >= MAXFD) return perror("socket"), 1;
      connect(fd, (void *)&to, sizeof to);
      conns[fd].due = due, conns[fd].is_sent = conns[fd].is_good = 0, open++;
      event.events = EPOLLIN | EPOLLOUT | EPOLLET, event.data.fd = fd;
      epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event);
      due += -log(1 - drand48()) / rate * 1e6;
    }
    double wait = begun < wanted ? fmax(0, fmin(due - now_us(), 1e5)) : 1e3;
    struct timespec patience = {.tv_nsec = (long)(wait * 1e3)};
    int count = epoll_pwait2(ep, events, 256, &patience, NULL);
    for (int i = 0; i < count; i++) {
      int fd = events[i].data.fd;
      if (!conns[fd].is_sent && (events[i].events & EPOLLOUT)) {
        conns[fd].is_sent = 1;
        send(fd, request, strlen(request), MSG_NOSIGNAL);
      }
      if (!(events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))) continue;
      ssize_t got;
      while ((got = recv(fd, buf, sizeof buf, 0)) > 0)
        if (got >= 12 && !strncmp(buf, "HTTP/1.1 200", 12)) conns[fd].is_good = 1;
      if (got < 0 && errno == EAGAIN) continue;
      if (got == 0 && conns[fd].is_good) latencies[answered++] = now_us() - conns[fd].due;
      else failed++;
      close(fd), open--;
    }
  }
  qsort(latencies, (size_t)answered, sizeof *latencies, ascending);
  printf("%.0f %.0f %ld %ld\n", latencies[answered / 2], latencies[answered * 99 / 100], answered, failed + open);
}
