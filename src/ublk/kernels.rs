//! Kernels whose ublk driver is known to be bad.

/// A kernel that this program may crash.
const CRASH: &str = "adding a ublk device can crash this kernel: use another one (see the README)";
/// A kernel on which a recovery may go wrong.
const RECOVERY: &str =
    "recovery under load can leave requests waiting on this kernel: Linux 7.1 or later is better";

/// The release of the running kernel.
pub fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Why a kernel should not be used at all.
pub fn known_crash(release: &str) -> Option<&'static str> {
    known_bug(release).filter(|bug| *bug == CRASH)
}

/// What is wrong with the ublk driver of a kernel, by its release (`uname -r`): `None` if nothing
/// is known.
///
/// Only bugs that concern every user of this program are here; the README has the rest.
pub fn known_bug(release: &str) -> Option<&'static str> {
    let numbers = numbers(release);
    match *numbers.as_slice() {
        [6, 18, 4 | 5, ..] => Some(CRASH),
        // Ubuntu's: 6.17.0-ABI-FLAVOUR; cloud flavours have ABI numbers of their own.
        [6, 17, 0, abi, ..] if is_bad_ubuntu(release, abi) => Some(CRASH),
        [major, minor, ..] if (major, minor) < (7, 1) => Some(RECOVERY),
        _ => None,
    }
}

/// Whether a kernel is older than a version; one without numbers is not.
pub fn is_before(release: &str, version: (u32, u32)) -> bool {
    matches!(*numbers(release).as_slice(), [major, minor, ..] if (major, minor) < version)
}

fn is_bad_ubuntu(release: &str, abi: u32) -> bool {
    let cloud = release.ends_with("-azure") || release.ends_with("-aws");
    (24..=40).contains(&abi) || cloud && (1015..=1020).contains(&abi)
}

/// The numbers at the start of a release, however they are separated.
fn numbers(release: &str) -> Vec<u32> {
    release.split(['.', '-', '+']).map_while(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_that_crash_are_known() {
        let crashes = |release: &str| known_crash(release).is_some();
        for bad in [
            "6.18.4",
            "6.18.5",
            "6.18.5-arch1-1",
            "6.17.0-24-generic",
            "6.17.0-40-generic",
            "6.17.0-1015-azure",
            "6.17.0-1020-aws",
        ] {
            assert!(crashes(bad), "{bad}");
        }
        for good in [
            "6.18.3",
            "6.18.6",
            "6.18.40",
            "6.17.0-23-generic",
            "6.17.0-41-generic",
            "6.17.0-1021-azure",
            "6.17.0-1016-gcp",
            "6.17.5-24-generic",
            "7.2.12+deb13-amd64",
            "nonsense",
            "",
        ] {
            assert!(!crashes(good), "{good}");
        }
    }

    #[test]
    fn recovery_is_better_later() {
        for old in ["6.12.117+deb12-amd64", "6.18.6", "7.0.9"] {
            assert!(known_bug(old).is_some_and(|bug| bug.contains("recovery")), "{old}");
        }
        for new in ["7.1", "7.1.0-rc1", "7.2.12+deb13-cloud-amd64", "8.0.1"] {
            assert_eq!(known_bug(new), None, "{new}");
        }
    }
}
