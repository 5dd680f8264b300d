# Used by other compiled modules (json_event.pxd); Python has nothing to call here.
