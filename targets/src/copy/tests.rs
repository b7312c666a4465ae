//! Tests of the copy engine on disks in memory come with the simulator.
