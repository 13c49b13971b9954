// Functions of activations, in f32.

// e^x of which the square is e^(2x): halves of an exponent keep tails that e^x itself would flush.
INLINE float silu(float x) {
    if (x < 0.0f) {
        const float h = exp(0.5f * x);
        return x * h * (h / (1.0f + h * h));
    }
    return x / (1.0f + exp(-x));
}
INLINE float sigmoid(float x) {
    const float e = exp(-fabs(x));
    return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}
// x·erfc(−x/√2)/2, where nothing cancels.
INLINE float gelu_erf(float x) { return 0.5f * x * erfc(-0.70710678118654752f * x); }
// x·sigmoid(2u), u = √(2/π)·(x + 0.044715·x³).
INLINE float gelu_tanh(float x) {
    const float u = 1.5957691216057308f * x * fma(0.044715f * x, x, 1.0f);
    return x * sigmoid(u);
}

INLINE float apply1(uint op, float x) {
    switch (op) {
        case 0: return silu(x);
        case 1: return gelu_erf(x);
        case 2: return gelu_tanh(x);
        case 3: return x < 0.0f ? 0.0f : x;
        case 4: return sigmoid(x);
        case 5: return tanh(x);
        default: return exp(x);
    }
}

// A clamp of 0 is none. What is not a number stays so.
INLINE float apply2(uint op, float a, float b, float clamp) {
    switch (op) {
        case 0: return a + b;
        case 1: return a - b;
        case 2: return a * b;
        case 3: return a / b;
        default:
            if (clamp > 0.0f) {
                a = a > clamp ? clamp : a;
                b = b > clamp ? clamp : b < -clamp ? -clamp : b;
            }
            return silu(a) * b;
    }
}
