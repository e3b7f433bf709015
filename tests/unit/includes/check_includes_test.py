#!/usr/bin/env python3
"""Tests check_includes.py on small trees: that it finds each kind of violation, and that it finds no other."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

from check_includes import Table, check_tree, includes_of, links_of

ROOMS = """
common        common:
common_http   common/http:         common
weights       daemon/weights:      common
device        daemon/device:       common
device_host   daemon/device/host:  common device   # a backend
operations    daemon/operations:   common weights device
main          daemon/main:         *
<boost/:      common_http
<fmt/:        *
"""


class Tree(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.root = pathlib.Path(self.folder.name)
        self.put("common/result.h", "#pragma once\n#include <expected>\n")

    def put(self, path, text):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def problems(self, rooms=ROOMS):
        return check_tree(self.root, Table(rooms))

    def expect(self, *parts, rooms=ROOMS):
        problems = self.problems(rooms)
        self.assertEqual(len(problems), 1, problems)
        for part in parts:
            self.assertIn(part, problems[0])

    def test_a_lawful_tree_has_no_violation(self):
        self.put("common/http_client.cpp",
                 '#include "common/http_client.h"\n#include <boost/asio.hpp>\n#include <netdb.h>\n')
        self.put("daemon/weights/a.h",
                 '#include "common/result.h"\n#include "daemon/weights/b.h"\n#include <sys/stat.h>\n')
        self.put("daemon/device/host/h.cpp", '#include "daemon/device/device.h"\n  #  include <fmt/format.h> // why\n')
        self.put("daemon/main.cpp", '#include "daemon/device/host/h.h"\n#include "daemon/operations/o.h"\n')
        self.put("daemon/device/CMakeLists.txt",
                 "add_library(ckptd_device INTERFACE)\ntarget_link_libraries(ckptd_device INTERFACE ckptd_common)\n"
                 "ckptd_room(device_host SOURCES host/h.cpp LEANS_ON common device PACKAGES fmt::fmt)\n")
        self.assertEqual(self.problems(), [])

    def test_an_arrow_back_is_found(self):
        self.put("common/units.h", '#pragma once\n\n#include "daemon/weights/dtype.h"\n')
        self.expect("common/units.h:3", "common may not lean on weights")

    def test_a_room_that_is_not_in_the_list_of_a_later_one_is_found(self):
        self.put("daemon/device/d.cpp", '#include "daemon/weights/dtype.h"\n')
        self.expect("daemon/device/d.cpp:1", "weights")

    def test_only_the_assembly_names_a_backend(self):
        self.put("daemon/operations/o.cpp", '#include "daemon/device/device.h"\n#include "daemon/device/host/h.h"\n')
        self.expect("o.cpp:2", "device_host")

    def test_an_interface_does_not_know_its_backend(self):
        self.put("daemon/device/device.cpp", '#include "daemon/device/host/h.h"\n')
        self.expect("device.cpp:1", "device_host")

    def test_the_http_client_is_not_of_common(self):
        self.put("common/files.cpp", '#include "common/http_client.h"\n')
        self.expect("files.cpp:1", "common_http")

    def test_a_package_in_the_wrong_room_is_found(self):
        self.put("daemon/weights/w.cpp", "#include <boost/asio.hpp>\n")
        self.expect("w.cpp:1", "boost/asio.hpp", "common_http may")

    def test_a_new_package_is_found(self):
        self.put("daemon/weights/w.cpp", "#include <rocksdb/db.h>\n")
        self.expect("w.cpp:1", "rocksdb")
        self.put("daemon/weights/w.cpp", "#include <uring.h>\n")
        self.expect("w.cpp:1", "uring.h")

    def test_headers_of_ours_in_angles_or_relative_are_found(self):
        for text in ("<common/result.h>", '"../../common/result.h"', '"dtype.h"', '"daemon/weights/../device/d.h"'):
            self.put("daemon/weights/w.cpp", f"#include {text}\n")
            self.expect("w.cpp:1", text.strip('<>"'))

    def test_a_room_or_a_file_that_nobody_knows_is_found(self):
        self.put("daemon/weights/w.cpp", '#include "daemon/shelf/shelf.h"\n')
        self.expect("w.cpp:1", "daemon/shelf/shelf.h")
        self.put("daemon/weights/w.cpp", "")
        self.put("daemon/shelf/shelf.h", "")
        self.expect("daemon/shelf/shelf.h", "no room")

    def test_a_macro_hides_nothing(self):
        self.put("daemon/weights/w.cpp", "#include HEADER\n")
        self.expect("w.cpp:1", "HEADER")

    def test_an_include_after_an_odd_comment_counts(self):
        self.put("daemon/weights/w.cpp",
                 'auto s = "/*";\n/* one */ #include "daemon/device/device.h"\nauto t = "*/";\n')
        self.expect("w.cpp:2", "device")

    def test_an_include_in_a_comment_does_not_count(self):
        self.put("daemon/weights/w.cpp",
                 '// #include "daemon/device/device.h"\n/*\n#include "daemon/device/device.h"\n*/\n')
        self.assertEqual(self.problems(), [])

    def test_a_folder_that_only_starts_like_a_room_is_not_of_it(self):
        self.put("daemon/device_of_others/x.h", "")
        self.expect("daemon/device_of_others/x.h", "no room")

    def test_link_lists_are_compared_too(self):
        lists = "daemon/weights/CMakeLists.txt"
        self.put(lists, "# LEANS_ON device\nckptd_room(weights\n  SOURCES a.cpp\n  LEANS_ON common device)\n")
        self.expect(lists + ":2", "weights may not lean on device")
        self.put(lists, "target_link_libraries(ckptd_weights PUBLIC ckptd_device_host fmt::fmt)\n")
        self.expect("weights may not lean on device_host")
        self.put(lists, "ckptd_room(shelf SOURCES a.cpp)\n")
        self.expect("the room shelf is not in rooms.txt")
        self.put(lists, "ckptd_room(device SOURCES a.cpp)\n")
        self.expect("device is of daemon/device/")

    def test_a_table_that_points_down_or_stumbles_is_refused(self):
        self.expect("rooms.txt:2", "b is not a room above", rooms="common common:\na a: b\nb b: a\n")
        self.expect("rooms.txt:1", "no colon", rooms="common common\ncommon common:\n")
        self.expect("rooms.txt:2", "twice", rooms="common common:\ncommon elsewhere:\n")
        self.expect("rooms.txt:2", "shelf", rooms="common common:\n<zmq: shelf\n")

    def test_an_empty_tree_is_no_success(self):
        with tempfile.TemporaryDirectory() as empty:
            self.assertEqual(len(check_tree(pathlib.Path(empty), Table(ROOMS))), 1)

    def test_the_program_fails_on_a_violation_and_names_it(self):
        rooms = self.root / "rooms.txt"
        rooms.write_text(ROOMS)
        program = pathlib.Path(__file__).with_name("check_includes.py")

        def run():
            return subprocess.run([sys.executable, program, self.root, rooms], capture_output=True, text=True)

        self.assertEqual(run().returncode, 0)
        self.put("common/units.h", '#include "daemon/weights/dtype.h"\n')
        result = run()
        self.assertEqual(result.returncode, 1)
        self.assertIn("common/units.h:1", result.stdout)


class Parsing(unittest.TestCase):
    def test_includes(self):
        text = ('#include <a>\n# include "b/c.h" // x\n\t#include<d.h>\n#include_next <e>\n'
                '#if 0\n#include "f/g.h"\n#endif\n')
        self.assertEqual([what for _, _, what in includes_of(text)], ["a", "b/c.h", "d.h", "e", "f/g.h"])

    def test_links(self):
        text = ("ckptd_room(a SOURCES a.cpp PACKAGES p::p LEANS_ON common b)\n"
                "target_link_libraries(other PRIVATE ckptd_a)\n")
        self.assertEqual(list(links_of(text)), [(1, "a", ["common", "b"])])


if __name__ == "__main__":
    unittest.main()
