# Fragments of processes, for native code only (see described.pxd).
