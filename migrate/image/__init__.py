"""OCI images: layers written and read, layouts, archives, registries, unpacking. Source: the OCI image-spec."""
