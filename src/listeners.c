/* SPDX-License-Identifier: BSD-3-Clause */

#include "listeners.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

/* Room for a URI whose path is escaped throughout. */
#define URI_MAX 512

union address {
  struct sockaddr any;
  struct sockaddr_un un;
  struct sockaddr_in in;
  struct sockaddr_in6 in6;
  struct sockaddr_vm vm;
};

/* Write the URI for a socket in the file system. */
static void
unix_uri (char uri[URI_MAX], const char *path)
{
  size_t n = (size_t)snprintf (uri, URI_MAX, "nbd+unix:///?socket=");

  for (; *path != '\0' && n + 4 < URI_MAX; path++) {
    const unsigned char c = (unsigned char)*path;
    if (isalnum (c) || strchr ("/._~-", c) != NULL)
      uri[n++] = (char)c;
    else
      n += (size_t)snprintf (uri + n, URI_MAX - n, "%%%02X", c);
  }
  uri[n] = '\0';
}

/* False if there is no URI for it. */
static bool
make_uri (char uri[URI_MAX], const union address *address, const char *skip)
{
  char text[INET6_ADDRSTRLEN];

  switch (address->any.sa_family) {
  case AF_UNIX:
    /* One without a name in the file system cannot be put into a URI. */
    if (address->un.sun_path[0] == '\0'
        || (skip != NULL && strcmp (address->un.sun_path, skip) == 0))
      return false;
    unix_uri (uri, address->un.sun_path);
    return true;
  case AF_INET:
    inet_ntop (AF_INET, &address->in.sin_addr, text, sizeof text);
    snprintf (uri, URI_MAX, "nbd://%s:%u",
              address->in.sin_addr.s_addr == htonl (INADDR_ANY) ? "localhost"
                                                                : text,
              ntohs (address->in.sin_port));
    return true;
  case AF_INET6:
    inet_ntop (AF_INET6, &address->in6.sin6_addr, text, sizeof text);
    if (IN6_IS_ADDR_UNSPECIFIED (&address->in6.sin6_addr))
      snprintf (uri, URI_MAX, "nbd://localhost:%u",
                ntohs (address->in6.sin6_port));
    else
      snprintf (uri, URI_MAX, "nbd://[%s]:%u", text,
                ntohs (address->in6.sin6_port));
    return true;
  case AF_VSOCK:
    /* 1 is this machine's own address. */
    snprintf (uri, URI_MAX, "nbd+vsock://%u:%u",
              address->vm.svm_cid == VMADDR_CID_ANY ? VMADDR_CID_LOCAL
                                                    : address->vm.svm_cid,
              address->vm.svm_port);
    return true;
  default:
    return false;
  }
}

/* The address of FD, if it is a stream socket that listens. */
static bool
listens (int fd, union address *address)
{
  socklen_t size = sizeof *address;
  int accepts = 0, type = 0;
  socklen_t length = sizeof accepts;

  if (getsockopt (fd, SOL_SOCKET, SO_ACCEPTCONN, &accepts, &length) == -1
      || accepts == 0)
    return false;
  length = sizeof type;
  if (getsockopt (fd, SOL_SOCKET, SO_TYPE, &type, &length) == -1
      || type != SOCK_STREAM)
    return false;
  memset (address, 0, sizeof *address);
  return getsockname (fd, &address->any, &size) == 0;
}

int
listeners_find (const char *skip, int (*found) (void *arg, const char *uri),
                void *arg)
{
  char uri[URI_MAX];
  union address address;
  int r = 0;
  DIR *dir = opendir ("/proc/self/fd");
  const struct dirent *entry;

  if (dir == NULL)
    return -1;
  while (r == 0 && (entry = readdir (dir)) != NULL) {
    if (!isdigit ((unsigned char)entry->d_name[0])
        || !listens (atoi (entry->d_name), &address)
        || !make_uri (uri, &address, skip))
      continue;
    r = found (arg, uri);
  }
  closedir (dir);
  return r;
}
