"""Device trees of boards nobody can start here: what a device hangs on, and which modules that takes."""
import re
import struct

# One cell count for each property that names suppliers; GPIOs are matched by their ending.
CELLS = {"clocks": "#clock-cells", "assigned-clocks": "#clock-cells", "resets": "#reset-cells", "dmas": "#dma-cells",
         "power-domains": "#power-domain-cells", "mboxes": "#mbox-cells", "iommus": "#iommu-cells", "phys": "#phy-cells",
         "interrupts-extended": "#interrupt-cells"}
PLAIN = re.compile(r".*-supply$|interrupt-parent$|msi-parent$|mmc-pwrseq$|pinctrl-\d+$")
GPIOS = re.compile(r"(.*-)?gpios?$")


class Node:
    def __init__(self, name, up):
        self.name, self.up, self.values, self.below = name, up, {}, []

    def path(self):
        return f"{self.up.path()}/{self.name}" if self.up else ""

    def all(self):
        yield self
        for node in self.below:
            yield from node.all()

    def cells(self, key):
        value = self.values.get(key, b"")
        return [cell for (cell,) in struct.iter_unpack(">I", value)] if len(value) % 4 == 0 else []

    def compatible(self):
        return [word for word in self.values.get("compatible", b"").decode().split("\0") if word]

    def is_on(self):
        return self.values.get("status", b"okay\0") in (b"okay\0", b"ok\0") and (self.up is None or self.up.is_on())


def tree(data):
    """The root node of a device tree blob (devicetree specification 0.4, chapter 5)."""
    at, names = struct.unpack(">2I", data[8:16])
    node = root = None

    def text(place):
        end = data.index(0, place)
        return data[place:end].decode(), end + 1
    while True:
        (token,) = struct.unpack(">I", data[at:at + 4])
        at += 4
        if token == 1:
            name, end = text(at)
            at = (end + 3) & ~3
            new = Node(name, node)
            if node:
                node.below.append(new)
            node, root = new, root or new
        elif token == 2:
            node = node.up
        elif token == 3:
            length, name_at = struct.unpack(">2I", data[at:at + 8])
            node.values[text(names + name_at)[0]] = data[at + 8:at + 8 + length]
            at = (at + 8 + length + 3) & ~3
        elif token == 9:
            return root


def suppliers(node, handles):
    """Nodes that this one names, and the one it lies in."""
    for key in node.values:
        cells = node.cells(key)
        if PLAIN.match(key):
            yield from (handles[cell] for cell in cells if cell in handles)
        elif counts := CELLS.get(key) or (GPIOS.match(key) and "#gpio-cells"):
            at = 0
            while at < len(cells):
                supplier = handles.get(cells[at])
                at += 1
                if supplier:
                    yield supplier
                    at += (supplier.cells(counts) or [0])[0]
    if node.up:
        yield node.up


def hangs_on(root, starts):
    """These nodes and all that must work before them."""
    handles = {node.cells("phandle")[0]: node for node in root.all() if node.cells("phandle")}
    seen, todo = [], list(starts)
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.append(node)
            todo += suppliers(node, handles)
    return seen


def wanted(nodes, aliases):
    """Modules of these nodes, each with the path of one; `aliases` are lines of a kernel's modules.alias."""
    drivers = {}
    for line in aliases:
        words = line.split()
        if len(words) == 3 and words[1].startswith("of:") and (found := re.search(r"C([^*]+?)(C\*)?$", words[1])):
            drivers.setdefault(found[1], set()).add(words[2])
    return {module: node.path() for node in nodes for word in node.compatible() for module in drivers.get(word, ())}
