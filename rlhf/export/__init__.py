"""The aligned adapter leaves the house: PEFT folder, merged model, card, verification."""
