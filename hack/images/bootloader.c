/* The front of the packed CNI executable: PyInstaller's bootloader and Python's library linked into one static program
 * (hack/images/build-bundle). A plugin's process lives for ten milliseconds, so what happens before its first line is
 * most of its time. As PyInstaller ships it that takes twice as long as here:
 *   - it loads a shared libpython by dlopen: a loader, eight files and 30 000 relocations at every call. Here the names
 *     that the bootloader asks for are looked up in a table;
 *   - it starts itself a second time, with LD_LIBRARY_PATH set, to find libraries. There are none, so it is told that it
 *     has done so. Where /proc is missing it does start twice, which works as well;
 *   - Python goes on to import codecs, io and its importers of files. The shim needs modules that are built in, so
 *     Python stops where those can be imported (PyConfig._init_main, "multi-phase initialization").
 */
#include <Python.h>
#include <limits.h>
#include <marshal.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pyi_main.h"

PyMODINIT_FUNC PyInit__imp(void);
PyMODINIT_FUNC PyInit__socket(void);
PyMODINIT_FUNC PyInit__thread(void);
PyMODINIT_FUNC PyInit__weakref(void);
PyMODINIT_FUNC PyInit_posix(void);
PyMODINIT_FUNC _PyWarnings_Init(void);

/* In place of the library's own table: only what is named here is linked in. */
struct _inittab _PyImport_Inittab[] = {
    {"_imp", PyInit__imp},         {"_socket", PyInit__socket},   {"_thread", PyInit__thread},
    {"_weakref", PyInit__weakref}, {"_warnings", _PyWarnings_Init}, {"posix", PyInit_posix},
    {"builtins", NULL},            {"sys", NULL},                 {NULL, NULL},
};

static void init_core_alone(PyConfig *config) {
    PyConfig_InitIsolatedConfig(config);
    config->_init_main = 0;
}

static const struct {
    const char *name;
    void *address;
} symbols[] = {
    {"PyConfig_InitIsolatedConfig", init_core_alone}, /* before the library's of that name */
#define SYMBOL(name) {#name, name},
#include "symbols.h"
};

/* The bootloader is compiled with these in place of dlopen and dlsym. */
void *linked_open(const char *path, int flags) {
    (void)path, (void)flags;
    return (void *)symbols;
}

void *linked_symbol(void *library, const char *name) {
    (void)library;
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++)
        if (strcmp(symbols[i].name, name) == 0) return symbols[i].address;
    return NULL;
}

int main(int argc, char **argv) {
    char self[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    /* Python does this in a part of its start that we leave out: a cnf that hangs up is an error to handle. */
    signal(SIGPIPE, SIG_IGN);
    if (length > 0) {
        self[length] = '\0';
        /* What the bootloader sets for its second start (pyi_main.c), whatever the environment says. */
        setenv("_PYI_ARCHIVE_FILE", self, 1);
        setenv("_PYI_PARENT_PROCESS_LEVEL", "-1", 1);
        unsetenv("_PYI_APPLICATION_HOME_DIR");
        unsetenv("_PYI_LINUX_PROCESS_NAME");
    }
    global_pyi_ctx->argc = argc;
    global_pyi_ctx->argv = argv;
    return pyi_main(global_pyi_ctx);
}
