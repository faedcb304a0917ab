// SPDX-License-Identifier: Apache-2.0
// The CNI executable: hands a runtime's request to the agent of this host and prints the agent's
// answer. All logic is the agent's (cni/ in Python); here are only deadlines and what to do when
// the agent is away.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shim.h"

extern char **environ;

// Milliseconds that a command may take: below the 4 minutes (start) and 2 minutes (stop) of
// kubelet, above the agent's own (agent/cni_server.py), and a second for STATUS, its own start in.
#ifdef DEADLINE
static const struct command {
	const char *name;
	int milliseconds;
} commands[] = {{"", DEADLINE}};
#else
static const struct command {
	const char *name;
	int milliseconds;
} commands[] = {
	{"ADD", 90000},  {"DEL", 20000},   {"CHECK", 10000},
	{"STATUS", 900}, {"VERSION", 900}, {"", 60000},
};
#endif

static const char about[] =
	"ilanet: Kubernetes networking by Identifier-Locator Addressing\n"
	"A container runtime runs it (CNI_COMMAND is not set); CNI versions " VERSIONS "\n";

static char environment_block[LARGEST_ENVIRONMENT];
static char input_buffer[LARGEST_INPUT + 1];

static bool is(const char *command, const char *name)
{
	return strcmp(command, name) == 0;
}

static int deadline_of(const char *command)
{
	size_t i = 0;

	while (*commands[i].name && !is(command, commands[i].name))
		i++;
	return commands[i].milliseconds;
}

// Copies what the runtime tells plugins in its environment; false if it is too much.
static bool gather_environment(struct bytes *block)
{
	size_t used = 0;

	for (char **entry = environ; *entry; entry++) {
		size_t size = strlen(*entry) + 1;

		if (strncmp(*entry, "CNI_", 4) != 0)
			continue;
		if (size > sizeof(environment_block) - used)
			return false;
		memcpy(environment_block + used, *entry, size);
		used += size;
	}
	*block = (struct bytes){environment_block, used};
	return true;
}

static int open_namespace(void)
{
	const char *path = getenv("CNI_NETNS");

	// a pipe must not block; the agent sees whether it is a namespace
	return path && *path ? open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY) : -1;
}

// Says that the request did not reach the agent, or its answer did not reach us.
static int give_up(const char *command, const char *version, enum code code, struct failure failure)
{
	const char *reason = failure.errno_value ? strerror(failure.errno_value) : "";

	// containerd takes the kernel's words for this as "the container is gone" and forgets it
	if (failure.errno_value == ENOENT)
		reason = "it is missing";

	if (is(command, "VERSION"))
		return print_versions(version) ? EXIT_SUCCESS : EXIT_FAILURE;
	if (is(command, "STATUS"))
		code = CODE_NOT_AVAILABLE;
	print_error(version, code, "the ilanet agent of this host cannot be asked", failure.what,
		    reason);
	return EXIT_FAILURE;
}

static bool is_letter_or_digit(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

// The rules of the CNI specification, as cni/spec.py has them: no '/' among them, for one.
static bool find_attachment(struct attachment *attachment)
{
	const char *container = getenv("CNI_CONTAINERID"), *interface = getenv("CNI_IFNAME");

	if (!container || !is_letter_or_digit(*container) || strlen(container) > LONGEST_CONTAINER)
		return false;
	for (const char *c = container; *c; c++) {
		if (!is_letter_or_digit(*c) && !strchr("_.-", *c))
			return false;
	}
	if (!interface || !*interface || strlen(interface) > LONGEST_INTERFACE ||
	    strpbrk(interface, "/: \t\n\v\f\r") || is(interface, ".") || is(interface, ".."))
		return false;
	*attachment = (struct attachment){container, interface};
	return true;
}

// The agent is away or makes no sense: a DEL succeeds all the same, or its pod could never end.
static int keep_delete(const char *version, const struct request *request)
{
	const char *path = getenv(QUEUE_VARIABLE);
	struct attachment attachment;
	struct failure failure;

	if (!find_attachment(&attachment))
		return give_up(
			"DEL", version, CODE_ENVIRONMENT,
			(struct failure){"CNI_CONTAINERID or CNI_IFNAME is missing or none", 0});
	if (queue_delete(path && *path ? path : QUEUE_PATH, &attachment, request, &failure))
		return EXIT_SUCCESS;
	return give_up("DEL", version, CODE_TRY_AGAIN, failure);
}

static int serve(const char *command)
{
	moment deadline = now() + deadline_of(command);
	const char *path = getenv(SOCKET_VARIABLE);
	struct request request = {.netns = -1};
	struct failure failure;
	struct answer answer;
	const char *version = is(command, "VERSION") ? NEWEST_VERSION : USUAL_VERSION;

	if (!gather_environment(&request.environment))
		return give_up(command, version, CODE_ENVIRONMENT,
			       (struct failure){"the environment is too large", 0});
	if (!read_input(input_buffer, sizeof(input_buffer), deadline, &request.input, &failure))
		return give_up(command, version,
			       failure.errno_value == EFBIG ? CODE_DECODING : CODE_IO, failure);
	if (request.input.size)
		version = answer_version(request.input);
	request.netns = open_namespace();
	request.printing = is(command, "ADD") || is(command, "VERSION");
	if (!ask_agent(path && *path ? path : SOCKET_PATH, &request, deadline, &answer, &failure))
		return is(command, "DEL") ? keep_delete(version, &request)
					  : give_up(command, version, CODE_TRY_AGAIN, failure);
	return write_all(STDOUT_FILENO, answer.output) ? answer.exit_status : EXIT_FAILURE;
}

int main(void)
{
	const char *command = getenv("CNI_COMMAND");

	signal(SIGPIPE, SIG_IGN);
	if (command && *command)
		return serve(command);
	write_all(STDERR_FILENO, (struct bytes){about, sizeof(about) - 1});
	return EXIT_SUCCESS;
}
