"""The grammars of all data sets: one file each, which reads and never writes.

A grammar of tracklets has ``LICENCE``, ``DESCRIBED``, ``EXPECTED``, ``holds``, ``read_tracklets`` and ``read_split``;
one of voices has ``read_items`` in place of the last two; `manifest` has all three. To add a data set, write its file
and add one line here.
"""

from pipeline.sources import common_voice, ilidsvid, manifest, mars, prid2011

SOURCES = {"mars": mars, "ilidsvid": ilidsvid, "prid2011": prid2011, "manifest": manifest}
"""Grammars of tracklets, by the `source` of a data set."""

VOICES = {"common_voice": common_voice}
"""Grammars of voice clips, by the `source` of a collection of voices."""
