// SPDX-License-Identifier: Apache-2.0
// The queue of DELs on disk: what the CNI executable was asked while the agent was away, one file
// for each attachment, whole or not there at all. The agent replays and removes them
// (agent/deletes.py).
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "shim.h"

static bool failed(struct failure *failure, const char *what)
{
	*failure = (struct failure){what, errno};
	return false;
}

// Counts what is queued, hidden names left aside; false if the folder cannot be read.  By the
// system call, since opendir would bring malloc in: a third of the executable.
static bool has_room(int folder)
{
	_Alignas(struct dirent) char page[4096];
	unsigned int count = 0;
	long size;

	while ((size = syscall(SYS_getdents64, folder, page, sizeof(page))) > 0) {
		const struct dirent *entry;

		for (long at = 0; at < size; at += entry->d_reclen) {
			entry = (const struct dirent *)(page + at);
			count += *entry->d_name != '.';
		}
	}
	if (size == 0)
		errno = EDQUOT;
	return size == 0 && count < LARGEST_QUEUE;
}

static bool write_request(int file, const struct request *request)
{
	char header[REQUEST_HEADER];

	request_header(request, header);
	return write_all(file, (struct bytes){header, sizeof(header)}) &&
	       write_all(file, request->environment) && write_all(file, request->input) &&
	       fsync(file) == 0;
}

// Writes a file without a name, then gives it the name: nobody sees half of it, and a kill leaves
// nothing.
static bool put(int folder, const char *name, const struct request *request)
{
	char path[] = "/proc/self/fd/0123456789";
	int file = openat(folder, ".", O_WRONLY | O_TMPFILE | O_CLOEXEC, 0600);
	bool done;
	int reason;

	if (file < 0)
		return false;
	*put_number(path + sizeof("/proc/self/fd/") - 1, (unsigned int)file) = '\0';
	done = write_request(file, request) &&
	       (linkat(AT_FDCWD, path, folder, name, AT_SYMLINK_FOLLOW) == 0 || errno == EEXIST);
	reason = errno;
	close(file);
	errno = reason;
	return done;
}

// Writes down that a folder is there at all.
static bool sync_parent(int folder)
{
	int parent = openat(folder, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool done = parent >= 0 && fsync(parent) == 0;

	if (parent >= 0)
		close(parent);
	return done;
}

bool queue_delete(const char *path, const struct attachment *attachment,
		  const struct request *request, struct failure *failure)
{
	char name[LONGEST_ATTACHMENT];
	bool made, present, queued = false;
	int folder;

	stpcpy(stpcpy(stpcpy(name, attachment->container), ":"), attachment->interface);
	made = mkdir(path, 0700) == 0;
	if (!made && errno != EEXIST)
		return failed(failure, "the folder of queued DELs cannot be made");
	folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (folder < 0)
		return failed(failure, "the folder of queued DELs cannot be opened");
	present = faccessat(folder, name, F_OK, 0) == 0;
	if (!present && !has_room(folder))
		failed(failure, "no more DELs can be queued");
	else if (!present && !put(folder, name, request))
		failed(failure, "the DEL cannot be queued");
	else if (fsync(folder) != 0 || (made && !sync_parent(folder)))
		failed(failure, "the DEL cannot be queued for sure");
	else
		queued = true;
	close(folder);
	return queued;
}
