// SPDX-License-Identifier: Apache-2.0
// What the files of the CNI executable share: limits, the wire form to the agent, and the printed
// answer.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Paths and deadlines may be replaced at build time; the variables replace the paths at run time.
#ifndef SOCKET_PATH
#define SOCKET_PATH "/run/ilanet/cni.sock"
#endif
#define SOCKET_VARIABLE "ILANET_SOCKET"
#ifndef QUEUE_PATH
#define QUEUE_PATH "/var/lib/ilanet/deletes"
#endif
#define QUEUE_VARIABLE "ILANET_QUEUE"

// DELs that wait for the agent, at most: a node runs a few hundred pods.
#ifndef LARGEST_QUEUE
#define LARGEST_QUEUE 4096
#endif

// The wire form (agent/cni_server.py describes it and holds the same limits).
#define MAGIC               "ILA1"
#define REQUEST_HEADER      12
#define ANSWER_HEADER       9
#define LARGEST_ENVIRONMENT (128u << 10)
#define LARGEST_INPUT       (1u << 20)
#define LARGEST_ANSWER      (1u << 20)

// Characters of a container id and of an interface's name (cni/spec.py has the same limits).
#define LONGEST_CONTAINER 200
#define LONGEST_INTERFACE 15
// With a colon between and a NUL behind.
#define LONGEST_ATTACHMENT (LONGEST_CONTAINER + LONGEST_INTERFACE + 2)

// cniVersions that we support (cni/spec.py has the same, a test compares), oldest first, and the
// one to answer in where we cannot tell what was asked.
#define VERSIONS       "\"0.4.0\", \"1.0.0\", \"1.1.0\""
#define OLDEST_VERSION "0.4.0"
#define USUAL_VERSION  "1.0.0"
#define NEWEST_VERSION "1.1.0"

// Error codes of the CNI specification.
enum code {
	CODE_ENVIRONMENT = 4,
	CODE_IO = 5,
	CODE_DECODING = 6,
	CODE_TRY_AGAIN = 11,
	CODE_NOT_AVAILABLE = 50,
};

// A piece of memory that somebody else owns.
struct bytes {
	const char *at;
	size_t size;
};

struct request {
	struct bytes environment; // "CNI_X=...", each with its NUL
	struct bytes input;
	int netns;     // open descriptor, or -1
	bool printing; // a success has something to print: ADD and VERSION
};

// Whose interface: both are fit to be part of a file's name.
struct attachment {
	const char *container;
	const char *interface;
};

struct answer {
	uint8_t exit_status;
	struct bytes output;
};

// A failure in words; errno_value 0 if the kernel has nothing to say about it.
struct failure {
	const char *what;
	int errno_value;
};

// A moment of CLOCK_MONOTONIC in milliseconds.
typedef int64_t moment;

moment now(void);

// Waits until `descriptor` is ready for `events`; false, with errno ETIMEDOUT, at the deadline.
bool wait_ready(int descriptor, short events, moment deadline);

// Reads standard input to its end into `buffer`; false with a failure, whose errno is EFBIG if it
// does not fit.
bool read_input(char *buffer, size_t capacity, moment deadline, struct bytes *input,
		struct failure *failure);

// Asks the agent on the socket at `path`; the answer lives until the next call.
bool ask_agent(const char *path, const struct request *request, moment deadline,
	       struct answer *answer, struct failure *failure);

// Fills in the REQUEST_HEADER bytes that go before a request.
void request_header(const struct request *request, char *header);

// Keeps a DEL on disk for the agent, unless one for that attachment waits already; true once it
// would survive a power failure.
bool queue_delete(const char *path, const struct attachment *attachment,
		  const struct request *request, struct failure *failure);

// Writes all of it; false if the descriptor does not take it.
bool write_all(int descriptor, struct bytes output);

// The value of "cniVersion" in a network configuration if we support it, else
// USUAL_VERSION.
const char *answer_version(struct bytes input);

// Writes a number's digits (10 at most) and returns the place behind them.
char *put_number(char *at, unsigned int number);

// Prints the error object of the CNI specification on standard output.
bool print_error(const char *version, enum code code, const char *message, const char *details,
		 const char *reason);

// Prints the result of VERSION on standard output.
bool print_versions(const char *version);
