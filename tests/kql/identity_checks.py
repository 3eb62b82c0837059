"""The functions of identities, run on what the connector writes of a directory, and of risk."""

import random
from datetime import datetime, timedelta

import rows
from workspace import Workspace

MS = timedelta(milliseconds=1)
USERS, MEMBERS = "DirectoryUsers_CL", "DirectoryGroupMembers_CL"


def _text(time):
    return time.isoformat(timespec="milliseconds") + "Z"


def _row(tenant, observed, kind, round_, **columns):
    """A row as it is in the table: it arrived a little later."""
    row = {"TimeGenerated": observed, "ObservedDateTime": observed, "AadTenantId": tenant, "RowKind": kind,
           "_ingestion_time": observed + timedelta(minutes=1), **columns}
    return row | ({"Round": _text(round_)} if round_ else {})


def _ticks(time):
    """In units of 100 ns since 1970."""
    return (rows.moment(time) - datetime(1970, 1, 1)) // timedelta(microseconds=1) * 10


def _expect(name, found, expected):
    return [] if found == expected else [
        f"{name}: lacking {sorted(expected.items() - found.items())}, too much {sorted(found.items() - expected.items())}"]


def _users(workspace):
    """State and name of each user, by tenant."""
    found = {}
    for row in workspace.query("IdentityUsers()"):
        found.setdefault(row["AadTenantId"], {})[row["UserId"]] = row["State"], row["DisplayName"]
    return found


def _members(workspace):
    found = {}
    for row in workspace.query("IdentityGroupMembers()"):
        found.setdefault(row["AadTenantId"], {})[row["GroupId"], row["MemberId"]] = row["State"]
    return found


# Of each case: what is in the table, as time, RowKind, user and time at which the round began, and who is there. The
# number is a RowCount.
_A_ROUND = [("now-6d", "User", "ada", "now-6d"), ("now-6d", "User", "bob", "now-6d"), ("now-6d", 2, "", "now-6d")]
_OF_USERS = {
    "a round": (_A_ROUND, {"ada": "Known", "bob": "Known"}),
    "nothing is whole": (_A_ROUND[:1] + _A_ROUND[2:], {}),
    "a round that is too old": ([("now-15d", "User", "ada", "now-15d"), ("now-15d", 1, "", "now-15d")], {}),
    "a round of which a row has not arrived": (
        [*_A_ROUND, ("now-1d", "User", "ada", "now-1d"), ("now-1d", 2, "", "now-1d")], {"ada": "Known", "bob": "Known"}),
    "one whose end arrived twice": (
        [*_A_ROUND, ("now-1d", "User", "ada", "now-1d"), *[("now-1d", 2, "", "now-1d")] * 2],
        {"ada": "Known", "bob": "Known"}),
    "one that has just ended, of which a row came twice and one has not arrived": (
        [*_A_ROUND, *[("now-1h", "User", "ada", "now-1h")] * 2, ("now-5m", 2, "", "now-1h")],
        {"ada": "Known", "bob": "Known"}),
    "the first one, which has just ended": ([("now-1h", "User", "ada", "now-1h"), ("now-5m", 1, "", "now-1h")], {"ada": "Known"}),
    "one that a change of later does not complete": (
        [*_A_ROUND, ("now-25h", "User", "ada", "now-25h"), ("now-25h", 2, "", "now-25h"),
         ("now-1h", "User", "ada", "now-25h")],
        {"ada": "Known", "bob": "Known"}),
    "one that has no end": ([*_A_ROUND, ("now-1d", "User", "ada", "now-1d")], {"ada": "Known", "bob": "Known"}),
    "a newer one, without bob": (
        [*_A_ROUND, ("now-1d", "User", "ada", "now-1d"), ("now-1d", 1, "", "now-1d")], {"ada": "Known"}),
    "one of nobody": ([*_A_ROUND, ("now-1d", 0, "", "now-1d")], {}),
    "removed": ([*_A_ROUND, ("now-5d", "Removed", "bob", "now-6d")], {"ada": "Known"}),
    "removed and there again": (
        [("now-4d", "User", "bob", "now-6d"), *_A_ROUND, ("now-5d", "Removed", "bob", "now-6d")],
        {"ada": "Known", "bob": "Known"}),
    "refused": ([*_A_ROUND, ("now-5d", "Quarantined", "bob", "now-6d")], {"ada": "Known", "bob": "Unknown"}),
    "refused in the reading itself": (
        [_A_ROUND[0], ("now-6d", "Quarantined", "bob", "now-6d"), _A_ROUND[2]], {"ada": "Known", "bob": "Unknown"}),
    "refused, then replayed": (
        [*_A_ROUND, ("now-5d", "User", "bob", "now-6d"), ("now-5d", "Quarantined", "bob", "now-6d")],
        {"ada": "Known", "bob": "Known"}),
}


def users():
    """IdentityUsers shows who is in the newest whole round and what came after it, and who is unknown"""
    workspace, all_of = Workspace(), []
    for tenant, (written, _) in _OF_USERS.items():
        for time, kind, user, round_ in written:
            count = {"RowCount": kind} if isinstance(kind, int) else {}
            columns = {"DisplayName": user} if kind == "User" else {}
            all_of.append(_row(tenant, rows.moment(time), "RoundComplete" if count else kind, rows.moment(round_),
                               UserId=user, **columns, **count))
    workspace.insert(USERS, all_of)
    found = _users(workspace)
    return [fault for tenant, (_, states) in _OF_USERS.items() for fault in _expect(
        tenant, found.get(tenant, {}), {user: (state, user if state == "Known" else "") for user, state in states.items()})]


def addresses():
    """IdentityAddresses gives each user of an address, and of IdentityInfo where the directory was not read"""
    def told(workspace):
        found = workspace.query("IdentityAddresses()")
        pairs = {(row["Address"], row["UserId"]): row["Source"] for row in found}
        return pairs | ({("each once", ""): ""} if len(found) > len(pairs) else {})

    round_ = rows.moment("now-2d")
    ours = [_row("t", round_, "User", round_, UserId="ada", SmtpAddresses=["ada@x.example", "sales@x.example"]),
            _row("t", round_, "User", round_, UserId="bob", SmtpAddresses=["sales@x.example"]),
            _row("t", round_, "User", round_, UserId="svc"), _row("t", round_, "RoundComplete", round_, RowCount=3)]

    def info(tenant, user, time, **columns):
        return {"TimeGenerated": rows.moment(time), "AccountTenantId": tenant, "AccountObjectId": user} | columns

    theirs = [info("t", "gone", "now-3d", MailAddress="gone@x.example"),
              info("t2", "eve", "now-9d", MailAddress="Old@y.example"),
              info("t2", "eve", "now-3d", MailAddress="Eve@y.example", AdditionalMailAddresses=["E@Y.example", "eve@y.example"]),
              info("t2", "joe", "now-3d", MailAddress="joe@y.example", DeletedDateTime=rows.moment("now-4d")),
              info("t2", "", "now-3d", MailAddress="local@y.example"), info("t2", "svc", "now-3d")]
    of_ours = {("ada@x.example", "ada"): "Directory", ("sales@x.example", "ada"): "Directory",
               ("sales@x.example", "bob"): "Directory"}
    of_theirs = {("eve@y.example", "eve"): "IdentityInfo", ("e@y.example", "eve"): "IdentityInfo"}
    workspace = Workspace()
    workspace.insert(USERS, ours)
    workspace.insert("IdentityInfo", theirs)
    faults = _expect("both", told(workspace), of_ours | of_theirs)
    workspace.db.execute("DROP TABLE IdentityInfo")
    faults += _expect("ours alone", told(workspace), of_ours)
    workspace.db.execute(f"DROP TABLE {USERS}")
    return faults + _expect("neither", told(workspace), {})


def members():
    """IdentityGroupMembers shows the memberships of now; a group that is gone ends all of its own"""
    workspace, round_ = Workspace(), rows.moment("now-2d")

    def edge(time, kind, group, member, **more):
        return _row("t", rows.moment(time), kind, round_, GroupId=group, MemberId=member, **more)

    workspace.insert(MEMBERS, [
        *[edge("now-2d", "Member", group, member) for group in ("staff", "sales") for member in ("ada", "bob", "eve")],
        # A group whose end was refused may be gone, and with it who was in it before.
        *[edge(time, kind, "temps", member) for time, kind, member in (
            ("now-2d", "Member", "max"), ("now-10h", "Quarantined", ""), ("now-5h", "Member", "kim"))],
        # One that is there again.
        *[edge(time, kind, "crew", member) for time, kind, member in (
            ("now-2d", "Member", "ian"), ("now-10h", "GroupRemoved", ""), ("now-5h", "Member", "liv"))],
        edge("now-2d", "RoundComplete", "", "", RowCount=8), edge("now-25h", "Removed", "staff", "bob"),
        edge("now-25h", "Quarantined", "staff", "joe"), edge("now-20h", "Quarantined", "sales", "joe"),
        edge("now-10h", "GroupRemoved", "sales", "")])
    workspace.insert("DirectoryGroups_CL", [
        _row("t", rows.moment(time), "Group", round_, GroupId="staff", DisplayName=name)
        for time, name in (("now-2d", "All"), ("now-1h", "Staff"))])
    found = workspace.query("IdentityGroupMembers()")
    faults = _expect("members", {row["MemberId"]: (row["GroupId"], row["GroupName"] or "", row["State"]) for row in found}, {
        "ada": ("staff", "Staff", "Known"), "eve": ("staff", "Staff", "Known"), "joe": ("staff", "Staff", "Unknown"),
        "max": ("temps", "", "Unknown"), "kim": ("temps", "", "Known"), "liv": ("crew", "", "Known")})
    for table in (MEMBERS, "DirectoryGroups_CL"):
        workspace.db.execute(f"DROP TABLE {table}")
    return faults + _expect("no tables", _members(workspace), {})


def risk():
    """IdentityRisk gives each detection once, in its newest state, from either source; IdentityRiskOpen those at risk"""
    def ours(observed, ticks, detection, state, kind="Detection"):
        changed = {"LastUpdatedTicks": ticks, "LastUpdatedDateTime": rows.moment("now-2d")} if ticks else {}
        return _row("t", rows.moment(observed), kind, None, DetectionId=detection, RiskState=state, **changed)

    def theirs(time, detection, state):
        return {"TimeGenerated": rows.moment(time), "LastUpdatedDateTime": rows.moment(time), "Id": detection,
                "RiskState": state, "Location": {"countryOrRegion": "NL", "city": "Delft"}}

    def told(workspace, function="IdentityRisk"):
        return {row["DetectionId"]: (row["RiskState"], row["State"], row["Source"]) for row in workspace.query(f"{function}()")}

    written = [
        ours("now-5h", 10, "dealt with", "atRisk"), ours("now-3h", 11, "dealt with", "remediated"),
        # A look that saw an older state than the one before.
        ours("now-3h", 21, "again", "atRisk"), ours("now-2h", 20, "again", "dismissed"),
        ours("now-3h", 30, "same time", "atRisk"), ours("now-2h", 30, "same time", "confirmedCompromised"),
        ours("now-3h", 40, "refused", "atRisk"), ours("now-2h", None, "refused", "", "Quarantined"),
        ours("now-2h", None, "replayed", "", "Quarantined"), ours("now-2h", 50, "replayed", "atRisk"),
        ours("now-2h", None, "never known", "", "Quarantined"), ours("now-2h", 70, "of a new state", "atGreatRisk"),
        # What came after it is not known, so nobody can tell that it is dealt with.
        ours("now-3h", 80, "was dealt with", "dismissed"), ours("now-2h", None, "was dealt with", "", "Quarantined"),
        # A change in the future, which was none.
        ours("now-5h", _ticks("now-0m") * 2, "ahead", "dismissed"), ours("now-2h", _ticks("now-3h"), "ahead", "atRisk"),
        # Whose change is newer, not who saw it later.
        ours("now-2h", _ticks("now-5h"), "both", "dismissed"), ours("now-4h", _ticks("now-5h"), "stopped", "dismissed")]
    native = [theirs("now-6h", "both", "atRisk"), theirs("now-3h", "stopped", "atRisk"),
              theirs("now-3h", "native", "remediated"),
              theirs("now-5h", "native", "atRisk"), theirs("now-5h", "native, open", "atRisk")]
    of_ours = {"dealt with": ("remediated", "Known", "EntraRisk"), "again": ("atRisk", "Known", "EntraRisk"),
               "same time": ("confirmedCompromised", "Known", "EntraRisk"), "refused": ("atRisk", "Unknown", "EntraRisk"),
               "replayed": ("atRisk", "Known", "EntraRisk"), "never known": ("", "Unknown", "EntraRisk"),
               "ahead": ("atRisk", "Known", "EntraRisk"), "of a new state": ("atGreatRisk", "Known", "EntraRisk"),
               "was dealt with": ("dismissed", "Unknown", "EntraRisk"), "both": ("dismissed", "Known", "EntraRisk")}
    of_theirs = {"native": ("remediated", "Known", "AADUserRiskEvents"),
                 "native, open": ("atRisk", "Known", "AADUserRiskEvents"),
                 "stopped": ("atRisk", "Known", "AADUserRiskEvents")}
    workspace = Workspace()
    workspace.insert("EntraRiskDetections_CL", written)
    workspace.insert("AADUserRiskEvents", native)
    faults = _expect("both", told(workspace), of_ours | of_theirs)
    faults += _expect("open", told(workspace, "IdentityRiskOpen"), {
        detection: values for detection, values in (of_ours | of_theirs).items()
        if values[0] not in ("remediated", "dismissed") or values[1] == "Unknown"})
    [city] = {row["City"] for row in workspace.query("IdentityRisk()") if row["DetectionId"] == "native"}
    faults += [] if city == "Delft" else [f"its city is {city}"]
    [tenant] = {row["AadTenantId"] for row in workspace.query("IdentityRisk()") if row["Source"] == "EntraRisk"}
    faults += [] if tenant == "t" else [f"the tenant is {tenant}"]
    workspace.db.execute("DROP TABLE EntraRiskDetections_CL")
    faults += _expect("theirs alone", told(workspace), of_theirs | {"both": ("atRisk", "Known", "AADUserRiskEvents")})
    workspace.db.execute("DROP TABLE AADUserRiskEvents")
    return faults + _expect("neither", told(workspace), {})


def risky_users():
    """IdentityRiskyUsers gives each risky user once, in the newest state, from either source"""
    def ours(observed, changed, user, state, kind="RiskyUser"):
        changed = rows.moment(changed) if isinstance(changed, str) else changed
        changed = {"RiskLastUpdatedDateTime": changed} if changed else {}
        return _row("t", rows.moment(observed), kind, None, UserId=user, RiskState=state, **changed)

    def told(workspace):
        return {row["UserId"]: (row["RiskState"], row["State"], row["Baseline"], row["Source"])
                for row in workspace.query("IdentityRiskyUsers()")}

    workspace = Workspace()
    workspace.insert("EntraRiskyUsers_CL", [
        ours("now-5d", "now-9d", "ada", "atRisk", "Baseline"), ours("now-5d", "now-9d", "bob", "atRisk", "Baseline"),
        ours("now-2d", "now-2d", "bob", "atRisk"), ours("now-1d", "now-2d", "bob", "dismissed"),
        ours("now-5h", rows.NOW + timedelta(days=900), "kim", "dismissed"), ours("now-2h", "now-3h", "kim", "atRisk"),
        ours("now-2h", "now-3h", "joe", "dismissed"), ours("now-1h", None, "bob", "", "Quarantined")])
    workspace.insert("AADRiskyUsers", [
        {"TimeGenerated": rows.moment(time), "RiskLastUpdatedDateTime": rows.moment(time), "Id": user, "RiskState": state}
        for time, user, state in (("now-1h", "joe", "atRisk"), ("now-9d", "bob", "remediated"), ("now-2d", "eve", "atRisk"),
                                  ("now-1d", "eve", "remediated"))])
    of_ours = {"ada": ("atRisk", "Known", True, "EntraRisk"), "bob": ("dismissed", "Unknown", False, "EntraRisk"),
               "joe": ("dismissed", "Known", False, "EntraRisk"), "kim": ("atRisk", "Known", False, "EntraRisk")}
    # The change is newer than the one that ours has.
    of_theirs = {"eve": ("remediated", "Known", False, "AADRiskyUsers"), "joe": ("atRisk", "Known", False, "AADRiskyUsers")}
    faults = _expect("both", told(workspace), of_ours | of_theirs)
    [tenant] = {row["AadTenantId"] for row in workspace.query("IdentityRiskyUsers()") if row["Source"] == "EntraRisk"}
    faults += [] if tenant == "t" else [f"the tenant is {tenant}"]
    workspace.db.execute("DROP TABLE AADRiskyUsers")
    faults += _expect("ours alone", told(workspace), of_ours)
    workspace.db.execute("DROP TABLE EntraRiskyUsers_CL")
    return faults + _expect("neither", told(workspace), {})


class _Directory:
    """A directory to which things happen, and which says what has changed since somebody asked."""

    def __init__(self, rng):
        self.rng, self.users, self.groups, self.edges = rng, {}, set(), set()
        self.names, self.askers = 0, []

    def happens(self):
        rng = self.rng
        for _ in range(rng.randrange(1, 9)):
            user, group = f"u{rng.randrange(12)}", rng.choice(sorted(self.groups) or [None])
            changed, kind = None, rng.randrange(10)
            if kind < 4:
                self.names += 1
                self.users[user] = f"{user} {self.names}"
                changed = user
            elif kind == 4:
                self.users.pop(user, None)
                changed = user
            elif kind == 5:
                self.names += 1
                # A group that is gone does not come back: one that is made again has another id.
                self.groups.add(f"g{self.names}")
            elif group and kind == 6:
                self.groups.remove(group)
                self.edges = {edge for edge in self.edges if edge[0] != group}
                changed = (group, None)
            elif group and kind < 9:
                self.edges.add((group, user))
                changed = (group, user)
            elif group:
                self.edges.discard((group, user))
                changed = (group, user)
            for asker in self.askers:
                asker.changed(changed)


class _Stream:
    """What the connector writes of users, or of members: src/sources/graph/directory.rs."""

    def __init__(self, tenant, directory):
        self.tenant, self.directory, self.rng = tenant, directory, directory.rng
        self.rows, self.observed, self.round, self.count = [], None, None, 0
        self.pending, self.unknown, self.seen = [], set(), {}
        directory.askers.append(self)

    def changed(self, what):
        if what is not None and self.is_mine(what) and what not in self.pending:
            self.pending.append(what)

    def page(self, now, objects, end=False, kept=True):
        """A page of these objects. One that is not kept is read again."""
        observed, named = max(now, (self.observed or now) + MS), set()
        for what in objects:
            name = what if isinstance(what, str) else what[0]
            if name in named:
                observed, named = observed + MS, set()
            named.add(name)
            self.write(observed, what)
        if kept:
            self.count += len(objects)
        if end:
            self.rows.append(_row(self.tenant, observed, "RoundComplete", self.round, RowCount=self.count))
        self.observed = observed

    def write(self, observed, what):
        kind, ids, columns = self.row_of(what)
        row = _row(self.tenant, observed, kind, self.round, **ids, **columns)
        refused = kind != "GroupRemoved" and self.rng.random() < 0.04
        if refused:
            self.rows.append(_row(self.tenant, observed, "Quarantined", self.round, **ids))
        replayed = refused and self.rng.random() < 0.5
        if not refused or replayed:
            self.rows.append(row)
        if kind == "GroupRemoved":
            self.unknown = {one for one in self.unknown if one[0] != what[0]}
        elif refused and not replayed:
            self.unknown.add(what)
        else:
            self.unknown.discard(what)

    def pages(self, objects):
        """The objects in pages, some of them again."""
        objects = objects + self.rng.sample(objects, len(objects) // 5)
        return [objects[start:start + 4] for start in range(0, len(objects), 4)]

    def whole(self, clock):
        """A whole reading, while things go on. It may break off, and begin anew; a page may be read twice."""
        while True:
            self.round, self.count, self.unknown, self.pending = clock.now, 0, set(), []
            objects = self.objects()
            self.rng.shuffle(objects)
            pages = self.pages(objects)
            broken_off = self.rng.randrange(2 * len(pages) + 2)
            for number, page in enumerate([*pages, []]):
                clock.goes_on()
                # Who is gone by now is not in it; the changes that follow say so too.
                page = [what for what in page if what in set(self.objects())]
                if number == broken_off:
                    break
                end = number == len(pages)
                if self.rng.random() < 0.2:
                    self.page(clock.now, page, kept=False)
                self.page(clock.now, page, end)
                if self.rng.random() < 0.3:
                    self.directory.happens()
            else:
                return

    def changes(self, now):
        self.rng.shuffle(self.pending)
        # A group's end follows what else is said of it.
        self.pending.sort(key=lambda what: what[1] is None)
        for page in self.pages(self.pending):
            self.page(now, page)
        self.pending = []
        self.seen = self.truth()


class _Users(_Stream):
    table = USERS

    def is_mine(self, what):
        return isinstance(what, str)

    def objects(self):
        return sorted(self.directory.users)

    def row_of(self, user):
        name = self.directory.users.get(user)
        ids = {"UserId": user}
        return ("User", ids, {"DisplayName": name}) if name else ("Removed", ids, {"RemovedReason": "changed"})

    def truth(self):
        known = {user: ("Known", name) for user, name in self.directory.users.items()}
        return known | {user: ("Unknown", "") for user in self.unknown}


class _Members(_Stream):
    table = MEMBERS

    def is_mine(self, what):
        return not isinstance(what, str)

    def objects(self):
        return sorted(self.directory.edges)

    def row_of(self, edge):
        group, member = edge
        if member is None:
            return "GroupRemoved", {"GroupId": group}, {"RemovedReason": "deleted"}
        kind = "Member" if edge in self.directory.edges else "Removed"
        return kind, {"GroupId": group, "MemberId": member}, {"MemberType": "user"} if kind == "Member" else {}

    def truth(self):
        return dict.fromkeys(self.directory.edges, "Known") | dict.fromkeys(self.unknown, "Unknown")


class _Clock:
    def __init__(self, rng, now):
        self.rng, self.now = rng, now

    def goes_on(self):
        self.now += timedelta(seconds=self.rng.randrange(0, 3))


def _history(seed, stream_of, half):
    """Twenty days of a directory: the rows that have arrived at the end, and what they must say."""
    rng = random.Random(f"{seed} {half}")
    directory, clock = _Directory(rng), _Clock(rng, rows.moment("now-20d"))
    stream, began = stream_of(f"{seed}{' half' if half else ''}", directory), None
    directory.happens()
    while clock.now < rows.moment("now-6h"):
        if began is None or clock.now - began > timedelta(days=4):
            stream.whole(clock)
            began = clock.now
            clock.goes_on()
        stream.changes(clock.now)
        for _ in range(rng.randrange(3)):
            directory.happens()
        clock.now += timedelta(hours=rng.randrange(2, 30))
    clock.now = rows.moment("now-5h")
    arrived = stream.rows
    if half:
        told = stream.seen
        directory.happens()
        stream.whole(clock)
        of_round = [row for row in stream.rows if row["Round"] == _text(stream.round)]
        arrived = [row for row in stream.rows if row["Round"] != _text(stream.round)]
        end = of_round.pop()
        # What changed after it has arrived.
        directory.happens()
        before = len(stream.rows)
        stream.changes(clock.now)
        arrived += stream.rows[before:]
        if end["RowCount"] == 0 or rng.random() < 0.3:
            arrived += of_round
        else:
            arrived += [end, *rng.sample(of_round, rng.randrange(end["RowCount"]))]
    else:
        stream.changes(clock.now)
        told = stream.seen
    # Some arrive twice, but for those of the round that is half there.
    arrived = arrived + ([] if half else rng.sample(arrived, len(arrived) // 10))
    rng.shuffle(arrived)
    return stream.tenant, arrived, told


def histories():
    """whatever happens to a directory and its readings, what the functions show is the truth"""
    faults, workspace = [], Workspace()
    for stream_of, read in (_Users, _users), (_Members, _members):
        all_of = [_history(seed, stream_of, half) for seed in range(20) for half in (False, True)]
        workspace.insert(stream_of.table, [row for _, arrived, _ in all_of for row in arrived])
        found = read(workspace)
        for tenant, _, told in all_of:
            faults += _expect(f"{stream_of.table}, seed {tenant}", found.get(tenant, {}), told)
    return faults


CHECKS = [users, addresses, members, risk, risky_users, histories]
