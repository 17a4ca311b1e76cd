// NVIDIA's driver, as much of it as `cuda_driver` asks: it answers from FAKE_DRIVER, which has a
// version, an error and devices "name|bytes|major|minor|integrated", separated by ";".
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int field(int device, char *name, size_t *bytes, int *major, int *minor, int *integrated) {
  const char *text = getenv("FAKE_DRIVER");
  for (int skipped = 0; text && skipped < 2 + device; skipped++)
    text = (text = strchr(text, ';')) ? text + 1 : NULL;
  return text && sscanf(text, "%255[^|]|%zu|%d|%d|%d", name, bytes, major, minor, integrated) == 5;
}

static int number(int place) {
  const char *text = getenv("FAKE_DRIVER");
  return atoi(place ? strchr(text, ';') + 1 : text);
}

int cuDriverGetVersion(int *version) { *version = number(0); return 0; }
int cuInit(unsigned flags) { return number(1); }
int cuDeviceGet(int *handle, int device) { *handle = device; return 0; }
int cuGetErrorString(int error, const char **text) { *text = "system not yet initialized"; return 0; }

int cuDeviceGetCount(int *count) {
  char name[256]; size_t bytes; int a, b, c;
  for (*count = 0; field(*count, name, &bytes, &a, &b, &c);) ++*count;
  return 0;
}

int cuDeviceGetName(char *name, int size, int device) {
  size_t bytes; int a, b, c;
  return !field(device, name, &bytes, &a, &b, &c);
}

int cuDeviceTotalMem_v2(size_t *bytes, int device) {
  char name[256]; int a, b, c;
  return !field(device, name, bytes, &a, &b, &c);
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
  char name[256]; size_t bytes; int major, minor, integrated;
  int failed = !field(device, name, &bytes, &major, &minor, &integrated);
  *value = attribute == 75 ? major : attribute == 76 ? minor : attribute == 18 ? integrated : -1;
  // Each in a slot of its own (domain 50, bus 33, slot 34); slices of a card are on bus 7.
  if (attribute == 50 || attribute == 34) *value = 0;
  if (attribute == 33) *value = strstr(name, "MIG") ? 7 : 16 + device;
  return failed;
}
