// Loaded before the C library: each sync of a file takes SLOW_SYNC_MS longer, as it does where a
// commit is replicated before it counts.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

typedef int (*sync_function)(int);

static int slowly(const char *name, int descriptor) {
  const char *text = getenv("SLOW_SYNC_MS");
  long milliseconds = text == NULL ? 0 : atol(text);
  struct timespec pause = {milliseconds / 1000, (milliseconds % 1000) * 1000000};
  nanosleep(&pause, NULL);
  return ((sync_function)dlsym(RTLD_NEXT, name))(descriptor);
}

int fsync(int descriptor) { return slowly("fsync", descriptor); }

int fdatasync(int descriptor) { return slowly("fdatasync", descriptor); }
