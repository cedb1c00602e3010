"""What python-zeroconf sees of our service. Run with the venv `meet`: python mdns.py SECONDS COUNT, prints one JSON list of
services when so many are there, or what is there when the time is over."""
import json
import sys
import time

from zeroconf import IPVersion, ServiceBrowser, Zeroconf

SERVICE = "_slskdn-mesh._udp.local."


class Names:
    def __init__(self):
        self.names = set()

    def add_service(self, zeroconf, kind, name):
        self.names.add(name)

    def remove_service(self, zeroconf, kind, name):
        self.names.discard(name)

    def update_service(self, zeroconf, kind, name):
        pass


def main(seconds, count):
    zeroconf = Zeroconf(ip_version=IPVersion.V4Only)
    seen = Names()
    browser = ServiceBrowser(zeroconf, SERVICE, seen)
    until, services = time.monotonic() + seconds, []
    while time.monotonic() < until and len(services) != count:
        time.sleep(0.2)
        infos = [zeroconf.get_service_info(SERVICE, name, 1_000) for name in sorted(seen.names)]
        services = [{"name": info.name, "port": info.port, "addresses": sorted(info.parsed_addresses()),
                     "texts": {k.decode(): v.decode() for k, v in info.properties.items()}} for info in infos if info]
    browser.cancel()
    zeroconf.close()
    print(json.dumps(services))


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
