// What every CUDA stage's kernel is launched with; filled by stages/common/cuda.py in this order.
#pragma once

struct Params {
  const u16* Q;  // [batch, seqlen_q, nheads, d]; rows start on 16-byte boundaries, the last stride is 1
  const u16* K;  // [batch, seqlen_k, nheads_k, d]
  const u16* V;  // [batch, seqlen_k, nheads_k, d]
  u16* O;        // [batch, seqlen_q, nheads, d]
  float* L;      // [batch, nheads, seqlen_q], contiguous: log of the row sums of exp(S)
  long long q_batch, q_row, q_head;  // strides in elements; 64 bits, because a product with an index passes 2³¹
  long long k_batch, k_row, k_head;
  long long v_batch, v_row, v_head;
  long long o_batch, o_row, o_head;
  int nheads, nheads_k, seqlen_q, seqlen_k;
  float softmax_scale;
};
