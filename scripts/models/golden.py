"""Golden values of SmolLM2-135M-Instruct (Q4_1) by transformers in f32: token ids, the logarithms of the probabilities of a text's
tokens, and greedy continuations. python golden.py FOLDER GGUF > golden.json"""
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, name = sys.argv[1], sys.argv[2]
tok = AutoTokenizer.from_pretrained(folder, gguf_file=name)
model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
text = "The Hadamard transform is its own inverse, up to a factor.\nfn main() {\n    println!(\"{}\", 42);\n}\nParis is the capital of France; Rome, of Italy."
ids = tok(text, add_special_tokens=False).input_ids
with torch.no_grad():
    logits = model(torch.tensor([ids])).logits[0].float()
logp = torch.log_softmax(logits, -1)
scores = [logp[i, ids[i + 1]].item() for i in range(len(ids) - 1)]
out = {"text": text, "ids": ids, "scores": scores, "chats": []}
for question in ["Write two sentences about gravity.", "List three colours.", "What is 2 + 2?"]:
    messages = [{"role": "user", "content": question}]
    prompt = tok.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    inputs = tok(prompt, add_special_tokens=False, return_tensors="pt")
    gen = model.generate(**inputs, max_new_tokens=32, do_sample=False, temperature=None, top_p=None, top_k=None, eos_token_id=2, repetition_penalty=1.0)
    new = gen[0, inputs.input_ids.shape[1]:].tolist()
    out["chats"].append({"question": question, "prompt_ids": inputs.input_ids[0].tolist(), "answer_ids": new, "answer": tok.decode(new, skip_special_tokens=True)})
json.dump(out, sys.stdout, indent=1)
