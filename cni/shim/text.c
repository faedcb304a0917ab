// SPDX-License-Identifier: Apache-2.0
// The little JSON that the CNI executable says itself, without printf to stay small.
#define _GNU_SOURCE
#include <string.h>
#include <unistd.h>

#include "shim.h"

// What ends the longest object, and always fits.
#define ENDING "\"}\n"

// A text under construction; what does not fit is cut off at a whole character.
struct text {
	char room[1024];
	size_t used;
};

static void append(struct text *text, const char *piece)
{
	size_t size = strlen(piece);

	if (size > sizeof(text->room) - sizeof(ENDING) - text->used)
		return;
	memcpy(text->room + text->used, piece, size);
	text->used += size;
}

char *put_number(char *at, unsigned int number)
{
	if (number >= 10)
		at = put_number(at, number / 10);
	*at = (char)('0' + number % 10);
	return at + 1;
}

static void append_number(struct text *text, unsigned int number)
{
	char digits[11];

	*put_number(digits, number) = '\0';
	append(text, digits);
}

// Appends the inside of a JSON string; what is not printable ASCII becomes U+FFFD.
static void append_escaped(struct text *text, const char *piece)
{
	for (; *piece; piece++) {
		char plain[2] = {*piece, '\0'};

		if (*piece == '"' || *piece == '\\')
			append(text, "\\");
		append(text, *piece >= ' ' && *piece <= '~' ? plain : "\\ufffd");
	}
}

const char *answer_version(struct bytes input)
{
	static const char *const supported[] = {OLDEST_VERSION, USUAL_VERSION, NEWEST_VERSION};
	static const char key[] = "\"cniVersion\"";
	const char *end = input.at + input.size;
	const char *found = memmem(input.at, input.size, key, sizeof(key) - 1);
	const char *at;

	if (!found)
		return USUAL_VERSION;
	for (at = found + sizeof(key) - 1; at < end && strchr(" \t\r\n:", *at) && *at; at++)
		;
	if (at == end || *at++ != '"')
		return USUAL_VERSION;
	for (size_t i = 0; i < sizeof(supported) / sizeof(*supported); i++) {
		size_t size = strlen(supported[i]);

		if ((size_t)(end - at) > size && memcmp(at, supported[i], size) == 0 &&
		    at[size] == '"')
			return supported[i];
	}
	return USUAL_VERSION;
}

bool print_error(const char *version, enum code code, const char *message, const char *details,
		 const char *reason)
{
	struct text text = {.used = 0};

	append(&text, "{\"cniVersion\": \"");
	append_escaped(&text, version);
	append(&text, "\", \"code\": ");
	append_number(&text, code);
	append(&text, ", \"msg\": \"");
	append_escaped(&text, message);
	append(&text, "\", \"details\": \"");
	append_escaped(&text, details);
	append(&text, *reason ? ": " : "");
	append_escaped(&text, reason);
	memcpy(text.room + text.used, ENDING, sizeof(ENDING) - 1);
	text.used += sizeof(ENDING) - 1;
	return write_all(STDOUT_FILENO, (struct bytes){text.room, text.used});
}

bool print_versions(const char *version)
{
	struct text text = {.used = 0};

	append(&text, "{\"cniVersion\": \"");
	append_escaped(&text, version);
	append(&text, "\", \"supportedVersions\": [" VERSIONS "]}\n");
	return write_all(STDOUT_FILENO, (struct bytes){text.room, text.used});
}
