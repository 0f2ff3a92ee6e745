"""Pictures that explain: what the notebooks and the book show of an idea, drawn from numbers that are computed.

Each module is one picture and a pair: functions that compute its numbers, without drawing, and `draw...(...)`, which
gives a Figure at most 7.5 inches wide with a sentence of alternative text in `fig.alt`. A notebook shows a figure that
is the last value of its cell; `tools.plot.style.save` writes one to files.

memory_wall      what the scores of naive attention weigh and move, beside tiles
blocks           what a Triton program sees of a tensor: offsets and masks
budget           what one K/V tile costs a multiprocessor, part by part
filmstrip        the online softmax tile by tile: S, P, m, l and O
traversal        the order in which FlashAttention-1 and -2 visit the tiles, and the bytes that they move
bank_conflicts   lanes against the banks of shared memory, of a stage or of a swizzle of your own
fragments        which lane and register holds which element of a matrix
loop_swap        time, bytes and programs of s11 and s12 as the sequence grows
pipeline         when copies travel and what is worked on meanwhile
fragment_pipeline  loads of fragments and products in time, with one and two sets of registers
causal_tiles     tiles that are skipped, full and masked; who works on which, and when
roofline_path    the ladder's way up under the roofline
step             one stage's place on the ladder
walk             what a Q tile does at each of its K/V tiles: masks, rescaling
score            the instructions of a score between the two products
b_operand        in which registers an ldmatrix of K leaves a B operand
machine_code     a main loop, instruction by instruction, as the compiler ordered it
instruction_mix  what the main loops of two stages consist of
lazy             how often rows are rescaled

catalogue        each of them with its defaults; `python -m tools.pictures` draws it
canvas           what they share: title, alternative text, cells
recorded         the committed measurements that some are drawn from
"""
