//! Devices made of devices: validate, record, profile; and lowering of a graph onto a device.
