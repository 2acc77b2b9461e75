"""The documentation, executed: every block of code in README.md, SECURITY.md, CONTRIBUTING.md and docs/.

What becomes of a block:

=====================================  ======================================================================
a block with a name                    (```` ```python title="net.py" ````) is written to that file
``python``                             is run, in one namespace a page; a ``text`` block right behind it is what
                                       it prints
``console``                            its ``$`` lines are run, on a terminal of 90 columns, and what they print is
                                       compared where the block shows anything; ``$ echo $?`` shows the exit code
``bash``, ``sh``, indented commands    are run
``yaml toml json ini``                 are parsed
anything else                          is a picture or somebody's output: :mod:`tests.docs.rules` says whose
=====================================  ======================================================================

Everything of a page runs in document order in an empty directory, in which ``rules`` puts what the page takes for
granted. What cannot run stands in ``rules`` with the reason: its commands are parsed by the command line itself (each
option must exist and take that value), its Python is compiled. No block is left out: ``test_docs`` counts them.

Output is compared line by line (:mod:`tests.docs.matching`). ``python -m tests.docs PAGE`` writes what a page's
commands print now into the page.
"""
