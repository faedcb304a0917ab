// SPDX-License-Identifier: Apache-2.0
// Traffic for benches and tests: one-byte request/response over many TCP streams, one bulk TCP
// stream, and numbered datagrams.
//
//   traffic serve ADDRESS PORT                  echoes single bytes, swallows the rest
//   traffic rr ADDRESS PORT STREAMS SECONDS     prints: transactions seconds p50_us p90_us p99_us
//   traffic bulk ADDRESS PORT SECONDS           prints: bytes seconds
//   traffic count ADDRESS PORT                  prints: received missing repeated longest_gap_ms
//   traffic datagrams ADDRESS PORT RATE SECONDS prints: sent failed
//
// serve runs until it is killed, datagrams until SIGTERM or the end, count until SIGTERM and a
// silence.
// Debian has no netperf, and sockperf and iperf3 have no request/response test over 200 TCP
// streams.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BUFFER      (256 * 1024)
#define MAX_STREAMS 4096
#define BUCKETS     200000      // microseconds; slower transactions count as the last bucket
#define NUMBERS     (64u << 20) // numbered datagrams of one run
#define LATE_NS     5000000ull  // a sender that is later than this does not catch up

static char buffer[BUFFER];
static uint64_t sent_at[MAX_STREAMS];
static uint32_t latency[BUCKETS];
static uint8_t seen[NUMBERS / 8];
static volatile sig_atomic_t ended;

static void fail(const char *what)
{
	fprintf(stderr, "traffic: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

static struct sockaddr_in6 parse(const char *address, const char *port)
{
	struct sockaddr_in6 result = {.sin6_family = AF_INET6,
				      .sin6_port = htons((uint16_t)atoi(port))};

	if (inet_pton(AF_INET6, address, &result.sin6_addr) != 1) {
		errno = EINVAL;
		fail(address);
	}
	return result;
}

static void no_delay(int fd)
{
	int on = 1;

	if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)))
		fail("TCP_NODELAY");
}

// Linux's own default: another one of the machine's, such as BBR with its pacing, would leave
// processors idle.
static void choose_congestion_control(int fd)
{
	if (setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "cubic", 5))
		fail("congestion control cubic");
}

static void watch(int epoll, int fd, uint32_t number)
{
	struct epoll_event event = {.events = EPOLLIN,
				    .data.u64 = (uint64_t)number << 32 | (uint32_t)fd};

	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event))
		fail("epoll_ctl");
}

static _Noreturn void serve(const char *address, const char *port)
{
	struct sockaddr_in6 place = parse(address, port);
	struct epoll_event events[256];
	int epoll = epoll_create1(0), on = 1;
	int listener = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0);

	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	choose_congestion_control(listener); // accepted sockets inherit it
	if (bind(listener, (struct sockaddr *)&place, sizeof(place)) || listen(listener, 4096))
		fail("listen");
	watch(epoll, listener, 0);
	for (;;) {
		int ready = epoll_wait(epoll, events, 256, -1);

		for (int i = 0; i < ready; i++) {
			int fd = (int)(uint32_t)events[i].data.u64;
			ssize_t got;

			if (fd == listener) {
				while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
					no_delay(fd);
					watch(epoll, fd, 0);
				}
				continue;
			}
			got = read(fd, buffer, BUFFER);
			if (got == 1)
				got = write(fd, buffer, 1);
			if (got == 0 || (got < 0 && errno != EAGAIN))
				close(fd);
		}
	}
}

static int dial(const struct sockaddr_in6 *place)
{
	int fd = socket(AF_INET6, SOCK_STREAM, 0);

	if (fd < 0)
		fail("socket");
	choose_congestion_control(fd);
	if (connect(fd, (const struct sockaddr *)place, sizeof(*place)))
		fail("connect");
	no_delay(fd);
	return fd;
}

static unsigned percentile(uint64_t total, double share)
{
	uint64_t seen = 0;

	for (unsigned i = 0; i < BUCKETS; i++) {
		seen += latency[i];
		if ((double)seen >= (double)total * share)
			return i;
	}
	return BUCKETS;
}

static void ask(int fd, uint32_t number)
{
	sent_at[number] = now_ns();
	if (write(fd, "x", 1) != 1)
		fail("write");
}

static int request_response(const char *address, const char *port, unsigned streams, double seconds)
{
	struct sockaddr_in6 place = parse(address, port);
	struct epoll_event events[256];
	uint64_t transactions = 0, begin, end;
	int epoll = epoll_create1(0);

	if (streams < 1 || streams > MAX_STREAMS) {
		errno = ERANGE;
		fail("streams");
	}
	for (unsigned i = 0; i < streams; i++) {
		int fd = dial(&place);

		watch(epoll, fd, i);
		ask(fd, i);
	}
	begin = now_ns();
	end = begin + (uint64_t)(seconds * 1e9);
	while (now_ns() < end) {
		int ready = epoll_wait(epoll, events, 256, 100);

		for (int i = 0; i < ready; i++) {
			uint32_t number = (uint32_t)(events[i].data.u64 >> 32);
			int fd = (int)(uint32_t)events[i].data.u64;
			uint64_t took;

			if (read(fd, buffer, 1) != 1)
				fail("read");
			took = (now_ns() - sent_at[number]) / 1000;
			latency[took < BUCKETS ? took : BUCKETS - 1]++;
			transactions++;
			ask(fd, number);
		}
	}
	printf("%llu %.6f %u %u %u\n", (unsigned long long)transactions,
	       (double)(now_ns() - begin) / 1e9, percentile(transactions, 0.50),
	       percentile(transactions, 0.90), percentile(transactions, 0.99));
	return 0;
}

static int bulk(const char *address, const char *port, double seconds)
{
	struct sockaddr_in6 place = parse(address, port);
	int fd = dial(&place);
	uint64_t bytes = 0, begin = now_ns(), end = begin + (uint64_t)(seconds * 1e9);

	while (now_ns() < end) {
		ssize_t sent = write(fd, buffer, BUFFER);

		if (sent < 0)
			fail("write");
		bytes += (uint64_t)sent;
	}
	printf("%llu %.6f\n", (unsigned long long)bytes, (double)(now_ns() - begin) / 1e9);
	return 0;
}

static void on_end(int signal)
{
	(void)signal;
	ended = 1;
}

static int count(const char *address, const char *port)
{
	struct sockaddr_in6 place = parse(address, port);
	struct sigaction action = {.sa_handler = on_end};
	struct timeval pause = {.tv_usec = 50000};
	uint64_t received = 0, repeated = 0, highest = 0, last = 0, gap = 0, number;
	int fd = socket(AF_INET6, SOCK_DGRAM, 0), room = 16 << 20;

	sigaction(SIGTERM, &action, NULL);
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &pause, sizeof(pause));
	if (bind(fd, (struct sockaddr *)&place, sizeof(place)))
		fail("bind");
	for (;;) {
		ssize_t got = recv(fd, &number, sizeof(number), 0);
		uint64_t now;

		if (got < 0 && ended) // and what had arrived before is counted
			break;
		if (got != sizeof(number) || number >= NUMBERS)
			continue;
		now = now_ns();
		if (last && now - last > gap)
			gap = now - last;
		last = now;
		if (seen[number / 8] & 1u << number % 8) {
			repeated++;
			continue;
		}
		seen[number / 8] |= (uint8_t)(1u << number % 8);
		received++;
		if (number >= highest)
			highest = number + 1;
	}
	printf("%llu %llu %llu %.3f\n", (unsigned long long)received,
	       (unsigned long long)(highest - received), (unsigned long long)repeated,
	       (double)gap / 1e6);
	return 0;
}

static int datagrams(const char *address, const char *port, double rate, double seconds)
{
	struct sockaddr_in6 place = parse(address, port);
	struct sigaction action = {.sa_handler = on_end};
	int fd = socket(AF_INET6, SOCK_DGRAM, 0);
	uint64_t total = (uint64_t)(rate * seconds), failed = 0, begin = now_ns(), number;

	if (total > NUMBERS) {
		errno = ERANGE;
		fail("RATE x SECONDS");
	}
	sigaction(SIGTERM, &action, NULL);
	for (number = 0; number < total && !ended; number++) {
		uint64_t due = begin + (uint64_t)((double)number * 1e9 / rate), now = now_ns();

		if (due > now) {
			struct timespec pause = {.tv_nsec = (long)(due - now)};

			nanosleep(&pause, NULL);
		} else if (now > due + LATE_NS) {
			begin += now - due; // a burst would overrun the kernel's backlog
		}
		if (sendto(fd, &number, sizeof(number), 0, (struct sockaddr *)&place,
			   sizeof(place)) < 0)
			failed++;
	}
	printf("%llu %llu\n", (unsigned long long)number, (unsigned long long)failed);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], "serve"))
		serve(argv[2], argv[3]);
	if (argc == 6 && !strcmp(argv[1], "rr"))
		return request_response(argv[2], argv[3], (unsigned)atoi(argv[4]), atof(argv[5]));
	if (argc == 5 && !strcmp(argv[1], "bulk"))
		return bulk(argv[2], argv[3], atof(argv[4]));
	if (argc == 4 && !strcmp(argv[1], "count"))
		return count(argv[2], argv[3]);
	if (argc == 6 && !strcmp(argv[1], "datagrams"))
		return datagrams(argv[2], argv[3], atof(argv[4]), atof(argv[5]));
	fprintf(stderr,
		"usage: traffic serve|rr|bulk|count|datagrams, see the head of traffic.c\n");
	return 2;
}
