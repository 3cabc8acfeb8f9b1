"""The parity pack: images and the vectors they must give, to check a runtime or an application against this one."""
