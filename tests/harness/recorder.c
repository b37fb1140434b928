// Loaded before the C library. Records what the process does with the files below RECORD_ROOT, and
// what it sends to sockets, in the order in which it happens, into the file RECORD_LOG. No file is
// synced. Instead a sync takes a random time of at most RECORD_SYNC_US_MAX, and after the first
// RECORD_FAIL_AFTER syncs, RECORD_FAIL_PERMILLE of them fail, often several in a row. Directories
// are synced rarely, so their syncs fail more often. The process is killed after RECORD_COUNT
// records, so that nothing is done which is not recorded.
//
// power-cut.mjs reads the records.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <netinet/in.h>
#include <time.h>
#include <unistd.h>

enum kind {
  START = 1,
  OPENED,
  WRITTEN,
  TRUNCATED,
  SYNC_BEGUN,
  SYNC_ENDED,
  RENAMED,
  LINKED,
  REMOVED,
  DIRECTORY_MADE,
  SENT,
};

struct record {
  uint32_t kind;
  // Which opened file or directory it is about, or the port of a socket's peer.
  uint32_t handle;
  uint64_t position;
  int32_t result;
  // Of the content after this record.
  uint32_t length;
};

enum { DESCRIPTORS_MAX = 1 << 16, FAILURES_IN_A_ROW_MAX = 4, DIRECTORY_FACTOR = 8 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint32_t handles[DESCRIPTORS_MAX];
static uint32_t last_handle;
static int log_descriptor = -1;
static const char *root;
static size_t root_length;
static unsigned seed, sync_us_max, fail_permille, fail_after, failures_left;
static unsigned records_left;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static unsigned setting(const char *name) {
  const char *text = getenv(name);
  return text == NULL ? 0 : (unsigned)strtoul(text, NULL, 10);
}

static void put(enum kind kind, uint32_t handle, uint64_t position, int result,
                const struct iovec *content, int count, size_t length) {
  struct record record = {kind, handle, position, result, (uint32_t)length};
  struct iovec parts[66] = {{&record, sizeof record}};
  int used = 1;
  for (int part = 0; part < count && length > 0; part++) {
    size_t bytes = content[part].iov_len < length ? content[part].iov_len : length;
    parts[used++] = (struct iovec){content[part].iov_base, bytes};
    length -= bytes;
  }
  size_t all = sizeof record + record.length;
  if (length > 0 || REAL(writev)(log_descriptor, parts, used) != (ssize_t)all) {
    static const char failed[] = "the recorder cannot write its log\n";
    REAL(write)(2, failed, sizeof failed - 1);
    _exit(70);
  }
  if (--records_left == 0) kill(getpid(), SIGKILL);
}

static void put_text(enum kind kind, uint32_t handle, int result, const char *text) {
  struct iovec content = {(void *)text, strlen(text)};
  put(kind, handle, 0, result, &content, 1, content.iov_len);
}

__attribute__((constructor)) static void start(void) {
  root = getenv("RECORD_ROOT");
  const char *log = getenv("RECORD_LOG");
  if (root == NULL || log == NULL) return;
  root_length = strlen(root);
  seed = setting("RECORD_SEED");
  sync_us_max = setting("RECORD_SYNC_US_MAX");
  fail_permille = setting("RECORD_FAIL_PERMILLE");
  fail_after = setting("RECORD_FAIL_AFTER");
  records_left = setting("RECORD_COUNT");
  log_descriptor = REAL(open)(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  put(START, 0, 0, 0, NULL, 0, 0);
}

// Writes the absolute path into `full`, and returns whether it is below the root.
static int is_recorded(int directory, const char *path, char full[PATH_MAX]) {
  if (log_descriptor < 0) return 0;
  char base[PATH_MAX] = "";
  if (path[0] != '/') {
    char link[64];
    if (directory == AT_FDCWD)
      snprintf(link, sizeof link, "/proc/self/cwd");
    else
      snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
    ssize_t length = readlink(link, base, sizeof base - 1);
    if (length < 0) return 0;
    base[length] = 0;
  }
  int length = snprintf(full, PATH_MAX, "%s%s%s", base, path[0] == '/' ? "" : "/", path);
  return length < PATH_MAX && strncmp(full, root, root_length) == 0 &&
         (full[root_length] == '/' || full[root_length] == 0);
}

static uint32_t *handle_of(int descriptor) {
  static uint32_t none;
  none = 0;
  return descriptor < 0 || descriptor >= DESCRIPTORS_MAX ? &none : &handles[descriptor];
}

static int opened(int directory, const char *path, int flags, mode_t mode) {
  char full[PATH_MAX];
  if (!is_recorded(directory, path, full)) return REAL(openat)(directory, path, flags, mode);
  pthread_mutex_lock(&lock);
  int is_new = (flags & O_CREAT) != 0 && faccessat(directory, path, F_OK, 0) != 0;
  int descriptor = REAL(openat)(directory, path, flags, mode);
  int error = errno;
  if (descriptor >= 0) {
    uint32_t handle = ++last_handle;
    *handle_of(descriptor) = handle;
    put_text(OPENED, handle, is_new, full);
    if (flags & O_TRUNC) put(TRUNCATED, handle, 0, 0, NULL, 0, 0);
  }
  pthread_mutex_unlock(&lock);
  errno = error;
  return descriptor;
}

#define MODE(flags)          \
  mode_t mode = 0;           \
  if ((flags) & O_CREAT) {   \
    va_list rest;            \
    va_start(rest, flags);   \
    mode = va_arg(rest, mode_t); \
    va_end(rest);            \
  }

int open(const char *path, int flags, ...) {
  MODE(flags)
  return opened(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...) {
  MODE(flags)
  return opened(AT_FDCWD, path, flags, mode);
}

int openat(int directory, const char *path, int flags, ...) {
  MODE(flags)
  return opened(directory, path, flags, mode);
}

int openat64(int directory, const char *path, int flags, ...) {
  MODE(flags)
  return opened(directory, path, flags, mode);
}

int close(int descriptor) {
  *handle_of(descriptor) = 0;
  return REAL(close)(descriptor);
}

static void put_written(uint32_t handle, off_t position, const struct iovec *parts, int count,
                        ssize_t done) {
  if (done > 0) put(WRITTEN, handle, (uint64_t)position, 0, parts, count, (size_t)done);
}

ssize_t pwrite64(int descriptor, const void *bytes, size_t length, off64_t position) {
  uint32_t handle = *handle_of(descriptor);
  if (handle == 0) return REAL(pwrite64)(descriptor, bytes, length, position);
  pthread_mutex_lock(&lock);
  ssize_t done = REAL(pwrite64)(descriptor, bytes, length, position);
  int error = errno;
  struct iovec part = {(void *)bytes, length};
  put_written(handle, position, &part, 1, done);
  pthread_mutex_unlock(&lock);
  errno = error;
  return done;
}

ssize_t pwrite(int descriptor, const void *bytes, size_t length, off_t position) {
  return pwrite64(descriptor, bytes, length, position);
}

// Returns the port of a socket's peer, or 0.
static uint32_t peer_port(int descriptor) {
  struct sockaddr_in peer = {0};
  socklen_t length = sizeof peer;
  if (log_descriptor < 0 || getpeername(descriptor, (struct sockaddr *)&peer, &length) != 0)
    return 0;
  return peer.sin_family == AF_INET ? ntohs(peer.sin_port) : 0;
}

static void put_sent(uint32_t port, const struct iovec *parts, int count, ssize_t done) {
  if (done > 0) put(SENT, port, 0, 0, parts, count, (size_t)done);
}

ssize_t writev(int descriptor, const struct iovec *parts, int count) {
  uint32_t handle = *handle_of(descriptor);
  uint32_t port = handle == 0 ? peer_port(descriptor) : 0;
  if (handle == 0 && port == 0) return REAL(writev)(descriptor, parts, count);
  if (count > 64) count = 64;
  pthread_mutex_lock(&lock);
  ssize_t done = REAL(writev)(descriptor, parts, count);
  int error = errno;
  if (port != 0)
    put_sent(port, parts, count, done);
  else if (done > 0)
    put_written(handle, lseek(descriptor, 0, SEEK_CUR) - done, parts, count, done);
  pthread_mutex_unlock(&lock);
  errno = error;
  return done;
}

ssize_t write(int descriptor, const void *bytes, size_t length) {
  if (*handle_of(descriptor) == 0 && peer_port(descriptor) == 0)
    return REAL(write)(descriptor, bytes, length);
  struct iovec part = {(void *)bytes, length};
  return writev(descriptor, &part, 1);
}

ssize_t send(int descriptor, const void *bytes, size_t length, int flags) {
  uint32_t port = peer_port(descriptor);
  if (port == 0) return REAL(send)(descriptor, bytes, length, flags);
  pthread_mutex_lock(&lock);
  ssize_t done = REAL(send)(descriptor, bytes, length, flags);
  int error = errno;
  struct iovec part = {(void *)bytes, length};
  put_sent(port, &part, 1, done);
  pthread_mutex_unlock(&lock);
  errno = error;
  return done;
}

int ftruncate64(int descriptor, off64_t length) {
  uint32_t handle = *handle_of(descriptor);
  if (handle == 0) return REAL(ftruncate64)(descriptor, length);
  pthread_mutex_lock(&lock);
  int result = REAL(ftruncate64)(descriptor, length);
  int error = errno;
  if (result == 0) put(TRUNCATED, handle, (uint64_t)length, 0, NULL, 0, 0);
  pthread_mutex_unlock(&lock);
  errno = error;
  return result;
}

int ftruncate(int descriptor, off_t length) { return ftruncate64(descriptor, length); }

static unsigned random_below(unsigned bound) {
  seed = seed * 1664525 + 1013904223;
  return bound == 0 ? 0 : (seed >> 8) % bound;
}

static int synced(int descriptor) {
  uint32_t handle = *handle_of(descriptor);
  if (handle == 0) return 0;
  struct stat status;
  int is_directory = fstat(descriptor, &status) == 0 && S_ISDIR(status.st_mode);
  unsigned permille = is_directory ? DIRECTORY_FACTOR * fail_permille : fail_permille;
  pthread_mutex_lock(&lock);
  put(SYNC_BEGUN, handle, 0, 0, NULL, 0, 0);
  unsigned pause = random_below(sync_us_max);
  int fails = 0;
  if (fail_after > 0) {
    fail_after--;
  } else if (failures_left > 0) {
    failures_left--;
    fails = 1;
  } else if (random_below(1000) < permille) {
    failures_left = random_below(FAILURES_IN_A_ROW_MAX);
    fails = 1;
  }
  pthread_mutex_unlock(&lock);
  struct timespec time = {0, (long)pause * 1000};
  nanosleep(&time, NULL);
  pthread_mutex_lock(&lock);
  put(SYNC_ENDED, handle, 0, fails ? EIO : 0, NULL, 0, 0);
  pthread_mutex_unlock(&lock);
  if (!fails) return 0;
  errno = EIO;
  return -1;
}

int fsync(int descriptor) { return synced(descriptor); }

int fdatasync(int descriptor) { return synced(descriptor); }

// Records the two paths with a zero byte between them.
static void put_paths(enum kind kind, const char *from, const char *to) {
  struct iovec paths[2] = {{(void *)from, strlen(from) + 1}, {(void *)to, strlen(to)}};
  put(kind, 0, 0, 0, paths, 2, paths[0].iov_len + paths[1].iov_len);
}

int rename(const char *from, const char *to) {
  char full_from[PATH_MAX], full_to[PATH_MAX];
  if (!is_recorded(AT_FDCWD, from, full_from) || !is_recorded(AT_FDCWD, to, full_to))
    return REAL(rename)(from, to);
  pthread_mutex_lock(&lock);
  int result = REAL(rename)(from, to);
  int error = errno;
  if (result == 0) put_paths(RENAMED, full_from, full_to);
  pthread_mutex_unlock(&lock);
  errno = error;
  return result;
}

int linkat(int from_directory, const char *from, int to_directory, const char *to, int flags) {
  char full_from[PATH_MAX], full_to[PATH_MAX];
  if (!is_recorded(from_directory, from, full_from) || !is_recorded(to_directory, to, full_to))
    return REAL(linkat)(from_directory, from, to_directory, to, flags);
  pthread_mutex_lock(&lock);
  int result = REAL(linkat)(from_directory, from, to_directory, to, flags);
  int error = errno;
  if (result == 0) put_paths(LINKED, full_from, full_to);
  pthread_mutex_unlock(&lock);
  errno = error;
  return result;
}

int unlinkat(int directory, const char *path, int flags) {
  char full[PATH_MAX];
  if (!is_recorded(directory, path, full)) return REAL(unlinkat)(directory, path, flags);
  pthread_mutex_lock(&lock);
  int result = REAL(unlinkat)(directory, path, flags);
  int error = errno;
  if (result == 0) put_text(REMOVED, 0, 0, full);
  pthread_mutex_unlock(&lock);
  errno = error;
  return result;
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }

int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdir(const char *path, mode_t mode) {
  char full[PATH_MAX];
  if (!is_recorded(AT_FDCWD, path, full)) return REAL(mkdir)(path, mode);
  pthread_mutex_lock(&lock);
  int result = REAL(mkdir)(path, mode);
  int error = errno;
  if (result == 0) put_text(DIRECTORY_MADE, 0, 0, full);
  pthread_mutex_unlock(&lock);
  errno = error;
  return result;
}
