//! Hosts of their own on this machine: one network namespace and address each, joined by a bridge.
//!
//! **Isolation.** [`enter`] starts the program again in new network, mount and process namespaces
//! (`unshare`). Everything made inside, hosts, bridge, firewall rules, mounts, processes, is
//! invisible outside, and the kernel removes it when the first process inside ends, however it
//! ends. So nothing is left behind, several runs do not meet, and no rule of ours can cut off the
//! machine itself.
//!
//! **Faults.** A host can be made deaf to others: packets that come from them are dropped silently,
//! as a broken switch would, in one direction or both. Connections to a host can be led through a
//! proxy of ours ([`super::proxy`]), which delays them: the kernel at hand has no `netem`.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::{HarnessError, tool};

/// Set inside the namespaces.
const INSIDE: &str = "CAIRN_FAULTS_INSIDE";
/// The network that all hosts share; it exists inside only.
const NETWORK: [u8; 3] = [10, 83, 0];
/// The tests' own place in it.
pub const TESTS_ADDRESS: Ipv4Addr = Ipv4Addr::new(NETWORK[0], NETWORK[1], NETWORK[2], 1);
/// Firewall of a host: who it is deaf to, and whose connections take the way through the proxy.
const FIREWALL: &str = "table ip faults {
  set deaf { type ipv4_addr; }
  map detours { type ipv4_addr . inet_service : ipv4_addr . inet_service; }
  chain input { type filter hook input priority 0; ip saddr @deaf drop; }
  chain output { type nat hook output priority 0; dnat ip to ip daddr . tcp dport map @detours; }
}
";

/// The tools that are needed, with the Debian package of each.
const TOOLS: [(&str, &str); 5] = [
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
];

/// Where the program runs now.
#[derive(Debug)]
pub enum Place {
    /// Inside its namespaces, with a network to put hosts on.
    Inside,
    /// This machine does not allow it, for this reason.
    NotAllowed(String),
}

/// Goes inside: the first call replaces the program by one that starts it again in namespaces of
/// its own, where the call returns.
pub fn enter() -> Place {
    if std::env::var_os(INSIDE).is_some() {
        return match make_network() {
            Ok(()) => Place::Inside,
            Err(error) => Place::NotAllowed(error.to_string()),
        };
    }
    for (name, package) in TOOLS {
        if tool(name, &["--version"], "").is_err() && tool(name, &["-V"], "").is_err() {
            return Place::NotAllowed(format!("{name} is missing (package {package})"));
        }
    }
    let namespaces = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
    // Whoever may not do this as himself may do it as root of a user namespace of his own.
    let ways: [&[&str]; 2] = [&[], &["--map-root-user"]];
    let works = |way: &&&[&str]| tool("unshare", &[way, &namespaces[..], &["true"]].concat(), "");
    let Some(way) = ways.iter().find(|way| works(way).is_ok()) else {
        return Place::NotAllowed("`unshare` may not make namespaces here".to_owned());
    };
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return Place::NotAllowed(format!("the program's own path: {error}")),
    };
    let error = Command::new("setpriv")
        // Whoever started us may be killed: then everything inside must go too.
        .args(["--pdeathsig", "KILL", "unshare"])
        .args(*way)
        .args(namespaces)
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    Place::NotAllowed(format!("cannot start setpriv: {error}"))
}

/// The bridge, with the tests' own address on it.
fn make_network() -> Result<(), HarnessError> {
    // `ip netns` keeps its names here; a file system of our own goes with us.
    tool("mount", &["-t", "tmpfs", "tmpfs", "/run"], "")?;
    tool("ip", &["link", "set", "lo", "up"], "")?;
    tool("ip", &["link", "add", "bridge", "type", "bridge"], "")?;
    tool("ip", &["address", "add", &format!("{TESTS_ADDRESS}/24"), "dev", "bridge"], "")?;
    tool("ip", &["link", "set", "bridge", "up"], "").map(drop)
}

/// One host, which is gone when this is dropped.
#[derive(Debug)]
pub struct Host {
    /// Its name, and that of its namespace.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its port on the bridge.
    port: String,
}

impl Host {
    /// Makes a host and plugs it into the bridge.
    pub fn make(name: &str, number: u8) -> Result<Self, HarnessError> {
        let address = Ipv4Addr::new(NETWORK[0], NETWORK[1], NETWORK[2], number);
        let port = format!("port{number}");
        tool("ip", &["netns", "add", name], "")?;
        let script = format!(
            "link add {port} type veth peer name eth0 netns {name}\n\
             link set {port} master bridge up\n"
        );
        tool("ip", &["-batch", "-"], &script)?;
        let script =
            format!("address add {address}/24 dev eth0\nlink set eth0 up\nlink set lo up\n");
        tool("ip", &["-n", name, "-batch", "-"], &script)?;
        let host = Self { name: name.to_owned(), address, port };
        host.firewall(FIREWALL)?;
        Ok(host)
    }

    /// A command that runs a program on this host.
    pub fn command(&self, program: &std::path::Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name)).arg("--").arg(program);
        command
    }

    /// Drops what comes from these addresses.
    pub fn be_deaf_to(&self, others: &[Ipv4Addr]) -> Result<(), HarnessError> {
        if others.is_empty() {
            return Ok(());
        }
        let list: Vec<String> = others.iter().map(Ipv4Addr::to_string).collect();
        self.firewall(&format!("add element ip faults deaf {{ {} }}\n", list.join(", ")))
    }

    /// Hears everybody again.
    pub fn hear_all(&self) -> Result<(), HarnessError> {
        self.firewall("flush set ip faults deaf\n")
    }

    /// Leads new connections from this host to `to` over `proxy`, a port of the tests' own address.
    pub fn detour(&self, to: SocketAddr, proxy: u16) -> Result<(), HarnessError> {
        let (address, port) = (to.ip(), to.port());
        self.firewall(&format!(
            "add element ip faults detours {{ {address} . {port} : {TESTS_ADDRESS} . {proxy} }}\n"
        ))
    }

    fn firewall(&self, rules: &str) -> Result<(), HarnessError> {
        let namespace = format!("--net=/run/netns/{}", self.name);
        tool("nsenter", &[&namespace, "nft", "-f", "-"], rules).map(drop)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The next case makes a host of the same name. The port goes first: that of a namespace
        // goes some time after it.
        let _ = tool("ip", &["link", "delete", &self.port], "");
        let _ = tool("ip", &["netns", "delete", &self.name], "");
    }
}
