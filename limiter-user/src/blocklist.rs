//! The desired state of the lists: who claims what about which prefix, until when. Pure: no I/O, no clock.
