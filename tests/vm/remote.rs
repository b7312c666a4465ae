//! A disk behind nvme-tcp: an nvmet target of this machine offers one of its disks. It can be lost
//! and return, and be connected anew under another number.

use std::fs;
use std::path::Path;

use crate::disk::{Buf, Disk};
use crate::server;
use crate::sh::sh;

/// Where the kernel's target is configured.
const NVMET: &str = "/sys/kernel/config/nvmet";
/// The port of the first disk; each other one has its own.
const FIRST_PORT: u32 = 4420;

/// A disk of this machine, offered and used through the network.
pub struct Remote {
    number: u32,
    /// Its name as a subsystem.
    nqn: String,
    /// The node under which it is, or was last, connected.
    pub path: String,
}

impl Remote {
    /// Offers a disk as the one with this number, and connects it.
    pub fn new(number: u32, disk: &str) -> Remote {
        sh("modprobe -a nvmet nvmet-tcp nvme-tcp").ok();
        sh("ip link set lo up").ok();
        if !Path::new(NVMET).exists() {
            sh("mount -t configfs none /sys/kernel/config").ok();
        }
        let nqn = format!("ublk-dm-disk-{number}");
        let mut remote = Remote { number, nqn, path: String::new() };
        let (port, subsystem) = (remote.port(), remote.subsystem());
        let dir = |path: &str| fs::create_dir(path).unwrap_or_else(|e| panic!("{path}: {e}"));
        dir(&subsystem);
        put(format!("{subsystem}/attr_allow_any_host"), "1");
        put(format!("{subsystem}/attr_serial"), &remote.serial());
        dir(&format!("{subsystem}/namespaces/1"));
        put(format!("{subsystem}/namespaces/1/device_path"), disk);
        put(format!("{subsystem}/namespaces/1/enable"), "1");
        dir(&port);
        for (key, value) in [
            ("addr_trtype", "tcp"),
            ("addr_adrfam", "ipv4"),
            ("addr_traddr", "127.0.0.1"),
            ("addr_trsvcid", &*remote.service()),
        ] {
            put(format!("{port}/{key}"), value);
        }
        remote.offer();
        remote.connect();
        remote
    }

    fn port(&self) -> String {
        format!("{NVMET}/ports/{}", self.number + 1)
    }

    fn service(&self) -> String {
        (FIRST_PORT + self.number).to_string()
    }

    fn subsystem(&self) -> String {
        format!("{NVMET}/subsystems/{}", self.nqn)
    }

    fn serial(&self) -> String {
        format!("tcp{}", self.number)
    }

    /// Connects it, under the first number that is free.
    pub fn connect(&mut self) {
        let line = format!(
            "transport=tcp,traddr=127.0.0.1,trsvcid={},nqn={},reconnect_delay=1,\
             ctrl_loss_tmo=600,fast_io_fail_tmo=1,keep_alive_tmo=10,nr_io_queues=1",
            self.service(),
            self.nqn
        );
        fs::write("/dev/nvme-fabrics", &line)
            .unwrap_or_else(|e| panic!("/dev/nvme-fabrics: {line}: {e}"));
        server::wait_for(20, "the disk behind the network", || self.find());
    }

    /// Disconnects it: its node goes.
    pub fn disconnect(&self) {
        self.delete_controllers();
        server::wait_for(20, "the disk's node to go", || !Path::new(&self.path).exists());
    }

    fn delete_controllers(&self) {
        for entry in fs::read_dir("/sys/class/nvme").into_iter().flatten().flatten() {
            let named = fs::read_to_string(entry.path().join("subsysnqn")).unwrap_or_default();
            if named.trim() == self.nqn {
                fs::write(entry.path().join("delete_controller"), "1").ok();
            }
        }
    }

    /// Finds the disk among all nodes.
    fn find(&mut self) -> bool {
        for entry in fs::read_dir("/sys/block").expect("/sys/block").flatten() {
            let read = |name: &str| {
                fs::read_to_string(entry.path().join("device").join(name)).unwrap_or_default()
            };
            let name = entry.file_name().into_string().expect("ASCII");
            if (read("serial").trim() == self.serial() || read("subsysnqn").trim() == self.nqn)
                && Path::new(&format!("/dev/{name}")).exists()
            {
                self.path = format!("/dev/{name}");
                return true;
            }
        }
        false
    }

    fn link(&self) -> String {
        format!("{}/subsystems/{}", self.port(), self.nqn)
    }

    /// The other machine is there again.
    pub fn offer(&self) {
        let link = self.link();
        std::os::unix::fs::symlink(self.subsystem(), &link)
            .unwrap_or_else(|e| panic!("{link}: {e}"));
    }

    /// The other machine is gone: the connection is closed, and no new one is accepted.
    pub fn withdraw(&self) {
        let link = self.link();
        fs::remove_file(&link).unwrap_or_else(|e| panic!("{link}: {e}"));
    }

    /// Whether it answers.
    pub fn answers(&self) -> bool {
        Disk::try_open(&self.path, false)
            .is_ok_and(|disk| disk.try_read(0, &mut Buf::new(8)).is_ok())
    }
}

fn put(path: String, value: &str) {
    fs::write(&path, value).unwrap_or_else(|e| panic!("{path}: {e}"));
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.delete_controllers();
        let subsystem = self.subsystem();
        fs::remove_file(self.link()).ok();
        fs::remove_dir(self.port()).ok();
        fs::write(format!("{subsystem}/namespaces/1/enable"), "0").ok();
        fs::remove_dir(format!("{subsystem}/namespaces/1")).ok();
        fs::remove_dir(&subsystem).ok();
    }
}
