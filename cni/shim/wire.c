// SPDX-License-Identifier: Apache-2.0
// Input and output of the CNI executable: every call has a deadline, every size a limit, nothing is
// trusted.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "shim.h"

// A full backlog answers EAGAIN at once; it is worth another try so many milliseconds later.
#define CONNECT_PAUSE 5

static char answer_buffer[LARGEST_ANSWER];

moment now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (moment)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

bool wait_ready(int descriptor, short events, moment deadline)
{
	for (;;) {
		struct pollfd ready = {.fd = descriptor, .events = events};
		moment left = deadline - now();
		int count = left > 0 ? poll(&ready, 1, (int)left) : 0;

		if (count > 0)
			return true;
		if (count < 0 && errno == EINTR)
			continue;
		if (count == 0)
			errno = ETIMEDOUT;
		return false;
	}
}

static bool failed(struct failure *failure, const char *what, int errno_value)
{
	*failure = (struct failure){what, errno_value};
	return false;
}

static bool is_passing(int number)
{
	return number == EINTR || number == EAGAIN;
}

bool read_input(char *buffer, size_t capacity, moment deadline, struct bytes *input,
		struct failure *failure)
{
	size_t used = 0;

	while (used < capacity) {
		ssize_t got;

		if (!wait_ready(STDIN_FILENO, POLLIN, deadline))
			return failed(failure, "standard input did not end in time", errno);
		got = read(STDIN_FILENO, buffer + used, capacity - used);
		if (got == 0) {
			*input = (struct bytes){buffer, used};
			return true;
		}
		if (got > 0)
			used += (size_t)got;
		else if (!is_passing(errno))
			return failed(failure, "standard input cannot be read", errno);
	}
	return failed(failure, "standard input is longer than 1 MiB", EFBIG);
}

bool write_all(int descriptor, struct bytes output)
{
	while (output.size) {
		ssize_t written = write(descriptor, output.at, output.size);

		if (written > 0) {
			output.at += written;
			output.size -= (size_t)written;
		} else if (written < 0 && errno == EAGAIN) {
			struct pollfd ready = {.fd = descriptor, .events = POLLOUT};

			poll(&ready, 1, -1);
		} else if (written < 0 && errno != EINTR) {
			return false;
		}
	}
	return true;
}

// Only root's agent is told what a runtime asks, and believed; ours too, where we are not root.
static bool is_trusted(int descriptor)
{
	struct ucred peer;
	socklen_t size = sizeof(peer);

	if (getsockopt(descriptor, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0)
		return false;
	errno = EPERM;
	return peer.uid == 0 || peer.uid == geteuid();
}

static bool connect_to(int descriptor, const char *path, moment deadline)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	if (strlen(path) >= sizeof(address.sun_path)) {
		errno = ENAMETOOLONG;
		return false;
	}
	strcpy(address.sun_path, path);
	while (connect(descriptor, (struct sockaddr *)&address, sizeof(address)) != 0) {
		if (!is_passing(errno))
			return false;
		if (now() >= deadline) {
			errno = ETIMEDOUT;
			return false;
		}
		poll(NULL, 0, CONNECT_PAUSE);
	}
	return true;
}

// Sends one piece; the descriptor, unless -1, goes along with its first byte.
static bool send_all(int descriptor, struct bytes piece, int passed, moment deadline)
{
	union {
		char room[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {0};

	while (piece.size) {
		struct iovec vector = {(char *)piece.at, piece.size};
		struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
		ssize_t sent;

		if (passed >= 0) {
			struct cmsghdr *header;

			message.msg_control = control.room;
			message.msg_controllen = sizeof(control.room);
			header = CMSG_FIRSTHDR(&message);
			header->cmsg_level = SOL_SOCKET;
			header->cmsg_type = SCM_RIGHTS;
			header->cmsg_len = CMSG_LEN(sizeof(int));
			memcpy(CMSG_DATA(header), &passed, sizeof(passed));
		}
		if (!wait_ready(descriptor, POLLOUT, deadline))
			return false;
		sent = sendmsg(descriptor, &message, MSG_NOSIGNAL);
		if (sent > 0) {
			piece.at += sent;
			piece.size -= (size_t)sent;
			passed = -1;
		} else if (sent < 0 && !is_passing(errno)) {
			return false;
		}
	}
	return true;
}

void request_header(const struct request *request, char *header)
{
	uint32_t sizes[2] = {htonl((uint32_t)request->environment.size),
			     htonl((uint32_t)request->input.size)};

	memcpy(header, MAGIC, 4);
	memcpy(header + 4, sizes, sizeof(sizes));
}

static bool send_request(int descriptor, const struct request *request, moment deadline)
{
	char header[REQUEST_HEADER];

	request_header(request, header);
	return send_all(descriptor, (struct bytes){header, sizeof(header)}, request->netns,
			deadline) &&
	       send_all(descriptor, request->environment, -1, deadline) &&
	       send_all(descriptor, request->input, -1, deadline);
}

// Reads exactly `size` bytes; errno is 0 if the other side ended first.
static bool receive_all(int descriptor, char *buffer, size_t size, moment deadline)
{
	while (size) {
		ssize_t got;

		if (!wait_ready(descriptor, POLLIN, deadline))
			return false;
		got = recv(descriptor, buffer, size, 0);
		if (got > 0) {
			buffer += got;
			size -= (size_t)got;
		} else if (got == 0) {
			errno = 0;
			return false;
		} else if (!is_passing(errno)) {
			return false;
		}
	}
	return true;
}

// As far as one can tell without a parser: what a runtime reads is the agent's to get right.
static bool is_object(struct bytes text)
{
	while (text.size && strchr(" \t\r\n", text.at[text.size - 1]) && text.at[text.size - 1])
		text.size--;
	return text.size > 1 && text.at[0] == '{' && text.at[text.size - 1] == '}';
}

// Reads an answer; `printing` tells whether a success prints something, as a failure always does.
static bool receive_answer(int descriptor, bool printing, moment deadline, struct answer *answer,
			   struct failure *failure)
{
	unsigned char header[ANSWER_HEADER];
	uint8_t exit_status;
	uint32_t size;

	if (!receive_all(descriptor, (char *)header, sizeof(header), deadline))
		return failed(failure, "the agent gave no answer", errno);
	exit_status = header[4];
	memcpy(&size, header + 5, sizeof(size));
	size = ntohl(size);
	if (memcmp(header, MAGIC, 4) != 0 || exit_status > 1 || size > sizeof(answer_buffer) ||
	    (size != 0) != (printing || exit_status != 0))
		return failed(failure, "the agent's answer makes no sense", 0);
	if (!receive_all(descriptor, answer_buffer, size, deadline))
		return failed(failure, "the agent gave half an answer", errno);
	*answer = (struct answer){exit_status, {answer_buffer, size}};
	if (size && !is_object(answer->output))
		return failed(failure, "the agent's answer is no JSON object", 0);
	return true;
}

bool ask_agent(const char *path, const struct request *request, moment deadline,
	       struct answer *answer, struct failure *failure)
{
	int descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	bool answered;

	if (descriptor < 0)
		return failed(failure, "no socket can be had", errno);
	if (!connect_to(descriptor, path, deadline))
		answered = failed(failure, "its socket does not answer", errno);
	else if (!is_trusted(descriptor))
		answered = failed(failure, "its socket is another user's", errno);
	else if (!send_request(descriptor, request, deadline))
		answered = failed(failure, "the agent did not take the request", errno);
	else
		answered = receive_answer(descriptor, request->printing, deadline, answer, failure);
	close(descriptor);
	return answered;
}
