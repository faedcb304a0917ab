// SPDX-License-Identifier: Apache-2.0
// What the CNI executable reads from others, given to it by libFuzzer: the first byte of an input
// chooses which reader gets the rest.
#define main shim_main
#include "../../cni/shim/main.c"
#undef main
#include "../../cni/shim/wire.c"

#define PATIENCE 1000

// The version that a configuration asks for.
static void look_at_configuration(const uint8_t *data, size_t size)
{
	const char *version = answer_version((struct bytes){(const char *)data, size});

	if (!*version)
		abort();
}

// What sits on the agent's socket says this and hangs up; the first byte tells whether a success
// prints something.
static void hear_answer(const uint8_t *data, size_t size)
{
	struct answer answer = {0};
	struct failure failure = {0};
	bool printing = size && *data & 1;
	int ends[2];

	if (!size || size > 60000 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) != 0)
		return;
	if (write(ends[1], data + 1, size - 1) != (ssize_t)size - 1)
		abort();
	close(ends[1]);
	if (receive_answer(ends[0], printing, now() + PATIENCE, &answer, &failure)) {
		if (answer.exit_status > 1 || answer.output.size > size)
			abort();
		if ((answer.output.size != 0) != (printing || answer.exit_status))
			abort();
		if (answer.output.size && *answer.output.at != '{')
			abort();
	} else if (!failure.what) {
		abort();
	}
	close(ends[0]);
}

// The words of an environment, NUL between them; a name that passes must be fit for a file.
static void read_environment(const uint8_t *data, size_t size)
{
	static char words[2][1024];
	struct attachment attachment;
	const uint8_t *middle = memchr(data, 0, size);
	size_t first = middle ? (size_t)(middle - data) : size;
	size_t second = middle ? size - first - 1 : 0;

	if (first >= sizeof(words[0]) || second >= sizeof(words[1]))
		return;
	memcpy(words[0], data, first);
	words[0][first] = '\0';
	if (second)
		memcpy(words[1], middle + 1, second);
	words[1][second] = '\0';
	setenv("CNI_CONTAINERID", words[0], 1);
	setenv("CNI_IFNAME", words[1], 1);
	if (!find_attachment(&attachment))
		return;
	if (strlen(attachment.container) + strlen(attachment.interface) + 2 > LONGEST_ATTACHMENT ||
	    strpbrk(attachment.container, "/:") || strpbrk(attachment.interface, "/:") ||
	    *attachment.container == '.')
		abort();
}

// An error's words, whatever is in them, are one JSON object of printable ASCII.
static void print_words(const uint8_t *data, size_t size)
{
	char words[512], printed[2048];
	int ends[2], saved;
	ssize_t count;

	if (size >= sizeof(words) || pipe(ends) != 0)
		return;
	memcpy(words, data, size);
	words[size] = '\0';
	saved = dup(STDOUT_FILENO);
	dup2(ends[1], STDOUT_FILENO);
	print_error(USUAL_VERSION, CODE_IO, "it failed", words, words);
	dup2(saved, STDOUT_FILENO);
	close(saved);
	close(ends[1]);
	count = read(ends[0], printed, sizeof(printed));
	close(ends[0]);
	if (count < 3 || printed[0] != '{' || printed[count - 1] != '\n')
		abort();
	for (ssize_t at = 0; at < count - 1; at++) {
		if (printed[at] < ' ' || printed[at] > '~')
			abort();
	}
	if (printed[count - 2] != '}')
		abort();
}

// What a runtime writes to standard input, and how much of it there is room for.
static void take_input(const uint8_t *data, size_t size)
{
	static char room[256];
	struct failure failure = {0};
	struct bytes input;
	size_t capacity;
	int ends[2];

	if (!size || size > 60000 || pipe(ends) != 0)
		return;
	capacity = *data;
	if (write(ends[1], data + 1, size - 1) != (ssize_t)size - 1)
		abort();
	close(ends[1]);
	dup2(ends[0], STDIN_FILENO);
	close(ends[0]);
	if (read_input(room, capacity, now() + PATIENCE, &input, &failure)) {
		if (input.size != size - 1 || memcmp(input.at, data + 1, input.size) != 0)
			abort();
	} else if (failure.errno_value != EFBIG || size - 1 < capacity) {
		abort();
	}
}

// The environment of a runtime, NUL between its words: only CNI's own are passed on.
static void gather_words(const uint8_t *data, size_t size)
{
	static char room[4096], *words[sizeof(room) + 1];
	char **before = environ;
	struct bytes block;
	size_t count = 0;

	if (size >= sizeof(room))
		return;
	memcpy(room, data, size);
	room[size] = '\0';
	for (char *at = room; at < room + size; at += strlen(at) + 1)
		words[count++] = at;
	words[count] = NULL;
	environ = words;
	if (!gather_environment(&block) || block.size > size + 1)
		abort();
	for (const char *at = block.at; at < block.at + block.size; at += strlen(at) + 1) {
		if (strncmp(at, "CNI_", 4) != 0)
			abort();
	}
	environ = before;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!size)
		return 0;
	switch (*data % 8) {
	case 0:
		look_at_configuration(data + 1, size - 1);
		break;
	case 1:
		hear_answer(data + 1, size - 1);
		break;
	case 2:
		read_environment(data + 1, size - 1);
		break;
	case 3:
		take_input(data + 1, size - 1);
		break;
	case 4:
		gather_words(data + 1, size - 1);
		break;
	default:
		print_words(data + 1, size - 1);
	}
	return 0;
}
