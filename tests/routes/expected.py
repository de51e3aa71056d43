"""What config/examples/gps-to-map.yaml must make of a capture, said a second time and without any of its code.

Reads a capture from standard input and prints one JSON array a line of it: ["fixes", {...}], ["satellites", {...}],
["ships", {...}], ["rest"], ["invalid"] or ["none"].
"""

import json
import math
import sys

FIX = {0: "unknown", 1: "none", 2: "2D", 3: "3D"}
SYSTEMS = {0: "GPS", 1: "SBAS", 2: "Galileo", 3: "BeiDou", 5: "QZSS", 6: "GLONASS"}


def rounded(number, digits):
    factor = 10.0**digits
    return math.copysign(math.floor(abs(number) * factor + 0.5), number) / factor


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def within(record, key, low, high):
    if key not in record:
        return True
    return is_number(record[key]) and low <= record[key] <= high


def fix(record):
    valid = (
        record["mode"] in FIX
        and within(record, "lat", -90, 90)
        and within(record, "lon", -180, 180)
        and within(record, "altMSL", -math.inf, math.inf)
        and within(record, "speed", 0, math.inf)
        and within(record, "track", 0, 360)
        and isinstance(record.get("time", ""), str)
    )
    if not valid or "time" not in record:
        return ["invalid"]
    made = {"position": {"latitude": record["lat"]}}
    if "lon" in record:
        made["position"]["longitude"] = record["lon"]
    if "altMSL" in record:
        made["position"]["altitude_ft"] = rounded(record["altMSL"] / 0.3048, 1)
    if "speed" in record:
        made["speed_kmh"] = rounded(record["speed"] * 3.6, 3)
    made["fix"] = FIX[record["mode"]]
    made["observed_at"] = record["time"]
    return ["fixes", made]


def satellites(record):
    seen = record["satellites"]
    made = {
        "seen": len(seen),
        "used": sum(1 for one in seen if one["used"]),
        "strongest_dB": max([one.get("ss", 0) for one in seen] + [0]),
    }
    if seen:
        made["systems"] = [SYSTEMS.get(one["gnssid"], "other") for one in seen if "gnssid" in one]
    if "time" in record:
        made["observed_at"] = record["time"]
    return ["satellites", made]


def ship(record):
    made = {"mmsi": str(record["mmsi"])}
    for key, target in (("type", "type"), ("shipname", "name"), ("destination", "destination")):
        if key in record:
            made[target] = record[key].strip() if isinstance(record[key], str) else record[key]
    return ["ships", made]


def judge(line):
    try:
        record = json.loads(line.decode("utf-8"))
    except ValueError:
        return ["invalid"]
    if not isinstance(record, dict) or "class" not in record:
        return ["none"]
    kind = record["class"]
    if kind == "TPV" and record.get("mode", 0) >= 2 and "lat" in record:
        return fix(record)
    if kind == "SKY" and "satellites" in record:
        return satellites(record)
    if kind == "AIS":
        return ship(record)
    return ["rest"]


capture = sys.stdin.buffer.read()
for line in capture.removesuffix(b"\n").split(b"\n"):
    print(json.dumps(judge(line)))
