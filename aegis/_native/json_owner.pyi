# Used by other compiled modules (json_owner.pxd); Python has nothing to call here.
