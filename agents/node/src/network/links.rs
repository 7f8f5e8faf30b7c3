//! Links, addresses and routes of a network namespace by netlink: what `ip` does, without a process for each step.
use super::COMMAND_TIMEOUT;
use anyhow::{Context, Result};
use futures::TryStreamExt;
use pilothouse_api::Ipv4Cidr;
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth};
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{
    Error, Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
};
use std::net::{IpAddr, Ipv4Addr};

/// The loopback link is the first of every namespace.
pub const LOOPBACK: Link = Link(1);

/// A link of a namespace, by its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link(u32);

/// The way to the kernel; it ends when this is dropped.
pub struct Links {
    handle: Handle,
    carrying: tokio::task::JoinHandle<()>,
}

impl Drop for Links {
    fn drop(&mut self) {
        self.carrying.abort();
    }
}

impl Links {
    /// Of the namespace that the calling thread is in.
    ///
    /// # Errors
    /// The system gives no socket.
    pub fn open() -> Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Self { handle, carrying: tokio::spawn(connection) })
    }

    /// None: there is no link of that name.
    pub async fn find(&self, name: &str) -> Result<Option<Link>> {
        let mut found = self.handle.link().get().match_name(name.to_owned()).execute();
        match answered(found.try_next()).await? {
            Ok(link) => Ok(link.map(|link| Link(link.header.index))),
            Err(Error::NetlinkError(error)) if error.raw_code() == -nix::libc::ENODEV => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub async fn add_bridge(&self, name: &str) -> Result<()> {
        Ok(answered(self.handle.link().add(LinkBridge::new(name).build()).execute()).await??)
    }

    /// Lays a cable from a port of `bridge`, here and down, to the namespace of the process `pid`, where its end has the
    /// hardware address `hardware`.
    pub async fn add_cable(
        &self,
        name: &str,
        bridge: Link,
        other_end: &str,
        hardware: [u8; 6],
        pid: i64,
    ) -> Result<()> {
        let pid = u32::try_from(pid).context("no process has this number")?;
        let other_end = LinkMessageBuilder::<LinkUnspec>::new().name(other_end).address(hardware.to_vec());
        let other_end = other_end.setns_by_pid(pid).build();
        let cable = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(name)
            .controller(bridge.0)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(other_end)))
            .build();
        Ok(answered(self.handle.link().add(cable).execute()).await??)
    }

    pub async fn delete(&self, link: Link) -> Result<()> {
        Ok(answered(self.handle.link().del(link.0).execute()).await??)
    }

    /// Lets what comes from a bridge's port go out there again.
    pub async fn turn_hairpin_on(&self, link: Link) -> Result<()> {
        let port = LinkBridgePort::new(link.0).hairpin(true).build();
        Ok(answered(self.handle.link().set_port(port).execute()).await??)
    }

    pub async fn bring_up(&self, link: Link) -> Result<()> {
        let up = LinkUnspec::new_with_index(link.0).up().build();
        Ok(answered(self.handle.link().change(up).execute()).await??)
    }

    /// Gives a link an address, if it has it not.
    pub async fn give_address(&self, link: Link, address: Ipv4Addr, prefix: u8) -> Result<()> {
        let request = self.handle.address().add(link.0, IpAddr::V4(address), prefix).replace();
        Ok(answered(request.execute()).await??)
    }

    /// Leads to a network right through a link, or by way of a `gateway`; what leaves by itself has the address `source`.
    pub async fn route(
        &self,
        to: Ipv4Cidr,
        link: Link,
        gateway: Option<Ipv4Addr>,
        source: Option<Ipv4Addr>,
    ) -> Result<()> {
        let mut route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(to.first(), to.prefix())
            .output_interface(link.0);
        route = match gateway {
            Some(gateway) => route.gateway(gateway),
            None => route.scope(RouteScope::Link),
        };
        if let Some(source) = source {
            route = route.pref_source(source);
        }
        Ok(answered(self.handle.route().add(route.build()).replace().execute()).await??)
    }
}

/// The kernel answers at once, or something holds it.
async fn answered<T>(asking: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(COMMAND_TIMEOUT, asking).await.context("the kernel does not answer")
}
