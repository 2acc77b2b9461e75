"""The cause engine on planted defects and on correct ports: what it names, rightly and wrongly, and in what time.

python -m benchmarks.causes defects [--record] [--held-out]
                                    [--new | --second | --third | --fourth | --fifth | --sixth | --seventh |
                                     --eighth | --ninth | --tenth | --eleventh | --twelfth |
                                     --thirteenth | --fourteenth | --fifteenth | --sixteenth |
                                     --seventeenth]
                                    [--kinds KIND …] [--stacks N …] [PAIR …]
python -m benchmarks.causes ports [--held-out] [PAIR …]
python -m benchmarks.causes fuzz [--seed N] [--cases K] [--pairs] [--kinds OPERATOR …] [PAIR …]

``defects`` takes the recordings that benchmarks.defects keeps, and explains each against the port's reference. Every
kind of defect has the names of causes that are right for it, and those that are vague but do not mislead. A defect is

first    all that is said at its place is right, and no other cause is held possible;
among    a right name is among three at most that are said at its place;
vague    what is said there is true, and too general;
unknown  the place is found, the cause is not;
wrong    a name that misleads is said there;
missed   nothing is said there.

A place is the changed node or the first pair behind it, and wherever a cause names that node or its twin. Findings
elsewhere are false ones, but for the ``latent``.
``--stacks`` takes several defects at once; ``--new`` those that were written when the engine was done; ``--second``
those that another hand wrote then, on ports of their own, on either side, and two in one layer: what is said of these
is told with ``--verbose`` alone. ``--third`` takes a third hand's, in small networks of their own, two in one layer or
in neighbours, and other correct ways to write these ports; ``--fourth`` to ``--seventeenth`` those of further hands, in
others, of which too what is said is told with ``--verbose`` alone. ``ports`` explains correct ports, where
every cause is false. ``fuzz`` draws defects that no author chose: operators on layers, weights and calls, anywhere in
the PyTorch ports of these networks, two at once with ``--pairs``; the same seed draws the same. Results go to
benchmarks/causes.json.
"""
