/* noise.cu, the text that SOURCE names, compiled for the processor. */
#include "shim.h"
#include SOURCE

#define KNOWN(kernel) Bound<kernel>::as(#kernel)

const Known known[] = {
    KNOWN(edgecut_noise_block),    KNOWN(edgecut_noise_tiles),    KNOWN(edgecut_noise_values),
    KNOWN(edgecut_noise_gather16), KNOWN(edgecut_noise_gather32), KNOWN(edgecut_noise_add),
    KNOWN(edgecut_noise_debug),    KNOWN(edgecut_noise_mixed),    KNOWN(edgecut_noise_elements),
};
const size_t known_kernels = sizeof known / sizeof *known;
