# Used by other compiled modules (json_sample.pxd); Python has nothing to call here.
