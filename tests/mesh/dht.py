"""A DHT of libtorrent's nodes on loopback, each on an address of its own network. Run with the venv `meet`:

    python dht.py COUNT

prints the nodes, each as host:port, in one line when they know each other, and answers orders line by line until its
standard input ends: `tell N HASH PORT` has node N announce itself, `ask N HASH` prints who is at a key, `know N HOST:PORT`
makes a further node known to node N.
"""
import sys
import time

import libtorrent as lt

PORT = 6881


def node(ip):
    return lt.session({
        "listen_interfaces": f"{ip}:{PORT}", "enable_dht": True, "enable_lsd": False, "enable_upnp": False,
        "enable_natpmp": False, "dht_bootstrap_nodes": "", "alert_mask": lt.alert.category_t.dht_operation_notification,
        # All of them are on loopback, which the real network would not have.
        "dht_restrict_routing_ips": False, "dht_restrict_search_ips": False, "dht_ignore_dark_internet": False,
        "dht_enforce_node_id": False, "dht_prefer_verified_node_ids": False,
    })


def ask(session, key):
    """Everybody at a key, as this node finds them. Replies come from several nodes."""
    session.pop_alerts()
    session.dht_get_peers(key)
    found, until = set(), time.monotonic() + 5
    while time.monotonic() < until:
        session.wait_for_alert(200)
        for alert in session.pop_alerts():
            if isinstance(alert, lt.dht_get_peers_reply_alert) and alert.info_hash == key:
                found.update(f"{ip}:{port}" for ip, port in alert.peers())
        if found:
            until = min(until, time.monotonic() + 1)
    return found


def main(count):
    ips = [f"127.{64 + n}.0.1" for n in range(count)]
    nodes = [node(ip) for ip in ips]
    # Whoever waits for our line has a limit of their own.
    while any(session.status().dht_nodes < count - 1 for session in nodes):
        for session in nodes:
            for ip in ips:
                session.add_dht_node((ip, PORT))
        time.sleep(0.1)
    print(" ".join(f"{ip}:{PORT}" for ip in ips), flush=True)
    for line in sys.stdin:
        order, n, key, *port = line.split()
        if order == "know":
            ip, at = key.split(":")
            nodes[int(n)].add_dht_node((ip, int(at)))
            print("known", flush=True)
            continue
        session, key = nodes[int(n)], lt.sha1_hash(bytes.fromhex(key))
        if order == "tell":
            session.dht_announce(key, int(port[0]))
            print("told", flush=True)
        else:
            print(" ".join(sorted(ask(session, key))) or "nobody", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
